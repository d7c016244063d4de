// Hands out device memory that goes when the arena does; every part is an allocation of its own, so that a
// device that checks can tell them apart. Without a device it only counts: the code that asks for memory also
// says how much that is before anything is taken.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "device/device.h"

namespace fiddler {

class DeviceArena {
 public:
  static constexpr uint64_t kAlignment = 256;  // what matrices need (plugin.h)

  DeviceArena() = default;  // counts; addresses are of no memory
  explicit DeviceArena(Device& device) : device_(&device) {}

  // No bytes: 0, no address. `what` names it in the error when the memory is not there.
  FiddlerAddress Take(uint64_t bytes, std::string_view what) {
    if (bytes == 0) return 0;
    const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    taken_ += rounded;
    if (device_ == nullptr) return taken_;  // never 0 and never looked at
    parts_.emplace_back(*device_, rounded, what);
    return parts_.back().address();
  }
  template <typename T>
  FiddlerAddress Array(int64_t count) {
    return Take(static_cast<uint64_t>(count) * sizeof(T), "buffers");
  }

  uint64_t taken() const { return taken_; }

 private:
  Device* device_ = nullptr;
  std::vector<DeviceBuffer> parts_;
  uint64_t taken_ = 0;
};

}  // namespace fiddler
