// A device that computes beside the CPU: plugin.h for C++ callers, with errors as exceptions and memory that
// goes when its owner does. What the functions do, and in what order things run, is said there.
//
// Every function throws Error ("NAME: what failed"). One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "device/plugin.h"

namespace fiddler {

class Device;

// Device memory. Move-only; must go before its device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;  // no bytes
  DeviceBuffer(Device& device, uint64_t bytes, std::string_view what);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  FiddlerAddress address() const { return address_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  FiddlerAddress address_ = 0;
  uint64_t bytes_ = 0;
};

// Pinned host memory. Move-only; must go before its device.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(Device& device, uint64_t bytes, std::string_view what);
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
};

class Device {
 public:
  // Takes over `handle`, which `api` made. CHECKs nothing: a loader compares versions first.
  Device(const FiddlerDeviceApi& api, FiddlerDevice* handle);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  const FiddlerDeviceApi& api() const { return api_; }
  FiddlerDevice* handle() const { return handle_; }
  std::string_view name() const { return name_; }
  FiddlerMemory memory();
  void SetScratch(FiddlerAddress address, uint64_t bytes);

  void Pin(std::span<const std::byte> memory);
  void Unpin(std::span<const std::byte> memory);

  FiddlerStream CreateStream();
  FiddlerEvent CreateEvent();
  void Record(FiddlerStream stream, FiddlerEvent event);
  void WaitEvent(FiddlerStream stream, FiddlerEvent event);
  void Synchronize(FiddlerStream stream);

  void CopyIn(FiddlerStream stream, FiddlerAddress to, const void* from, uint64_t bytes);
  void CopyOut(FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes);
  void Clear(FiddlerStream stream, FiddlerAddress to, uint64_t bytes);

  void Post(FiddlerStream stream, uint32_t* flag);
  void Await(FiddlerStream stream, uint32_t* flag);
  void SetFlag(uint32_t* flag);
  // `what` opens the error when nothing came in time: "layer 3, routing".
  void WaitFlag(uint32_t* flag, double seconds, std::string_view what);

  void BeginCapture(FiddlerStream stream);
  FiddlerSegment EndCapture(FiddlerStream stream);
  void Launch(FiddlerStream stream, FiddlerSegment segment);
  void ReleaseSegment(FiddlerSegment segment);

  void RmsNorm(FiddlerStream stream, const FiddlerRmsNorm& args);
  void MatMul(FiddlerStream stream, const FiddlerMatMul& args);
  void RotateStore(FiddlerStream stream, const FiddlerRotateStore& args);
  void Attend(FiddlerStream stream, const FiddlerAttend& args);
  void Add(FiddlerStream stream, const FiddlerAdd& args);
  void Sigmoid(FiddlerStream stream, const FiddlerSigmoid& args);
  void Route(FiddlerStream stream, const FiddlerRoute& args);
  void Ffn(FiddlerStream stream, const FiddlerFfn& args);

  void ReadProbe(FiddlerStream stream, FiddlerAddress data, uint64_t bytes);
  double ProductProbe(FiddlerStream stream, int64_t rounds);  // returns its operations

 private:
  friend class DeviceBuffer;
  friend class PinnedBuffer;
  void Check(int32_t status, std::string_view what);

  const FiddlerDeviceApi& api_;
  FiddlerDevice* handle_;
  std::string name_;
};

}  // namespace fiddler
