// What a FiddlerDevice (plugin.h) is in this plugin: the parts of the runtime, and what takes several of
// them. Nothing here knows of status numbers: it throws std::runtime_error, plugin.cu turns that into them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device/cuda_runtime/check.h"
#include "device/cuda_runtime/host_ranges.h"
#include "device/cuda_runtime/mailbox.h"
#include "device/cuda_runtime/opening.h"
#include "device/cuda_runtime/streams.h"
#include "device/cuda_runtime/sub_allocator.h"
#include "device/cuda_runtime/uploads.h"
#include "device/plugin.h"

namespace fiddler::cuda {

// The memory of the device that the cap allows, taken in one piece.
class DeviceMemory {
 public:
  // cap_bytes 0: all that is free, but for a reserve.
  explicit DeviceMemory(uint64_t cap_bytes);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory();

  FiddlerMemory usage() const;
  FiddlerAddress Allocate(uint64_t bytes);
  void Release(FiddlerAddress address);
  // The bytes; throws if they are not all in one allocation. `what` opens the message.
  std::byte* Require(FiddlerAddress address, uint64_t bytes, const char* what) const;

 private:
  uint64_t installed_bytes_ = 0;
  std::optional<SubAllocator> parts_;
  std::byte* data_ = nullptr;
};

// Host memory that the GPU reaches. Releasing and unpinning: nothing uses it any more.
//
// Pin is safe on a second thread, also while the first copies from what is being pinned.
class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory();

  void* Allocate(uint64_t bytes);
  void Release(void* data);
  void Pin(const void* data, uint64_t bytes);
  void Unpin(const void* data);

  Flag RequireFlag(uint32_t* flag, const char* call) const;
  const HostRanges& ranges() const { return ranges_; }

 private:
  HostRanges ranges_;
};

}  // namespace fiddler::cuda

struct FiddlerDevice {
  explicit FiddlerDevice(const FiddlerOpenOptions& options);

  void CopyIn(FiddlerStream stream, FiddlerAddress to, const void* from, uint64_t bytes);
  void CopyOut(FiddlerStream stream, void* to, FiddlerAddress from, uint64_t bytes);

  // Waits until nothing is queued any more. Returns early on a device that has failed, and if it takes so
  // long that something must be waiting for ever: then the device has failed, and is `stuck`.
  void Drain(const char* call, double seconds, bool set_awaited);

  // Members die from the last to the first.
  const int ordinal;
  const fiddler::cuda::Properties properties;
  fiddler::cuda::Health health;
  fiddler::cuda::Mailbox mailbox;
  fiddler::cuda::Uploads uploads;
  fiddler::cuda::HostMemory host;
  fiddler::cuda::DeviceMemory memory;  // after all that takes some for itself
  fiddler::cuda::Streams streams;
  std::byte* scratch = nullptr;
  uint64_t scratch_bytes = 0;
  bool stuck = false;  // freeing anything would wait for what does not end
};
