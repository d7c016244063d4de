// Hands out parts of one run of device memory. Without a device it only counts, so that the code that asks
// for memory also says how much that is before anything is taken.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "device/device.h"

namespace fiddler {

class DeviceArena {
 public:
  static constexpr uint64_t kAlignment = 256;  // what matrices, slices and caches need (plugin.h)

  DeviceArena() = default;  // counts; addresses are of no memory
  DeviceArena(Device& device, uint64_t bytes, std::string_view what)
      : memory_(device, bytes, what), base_(memory_.address()), counts_(false) {}

  FiddlerAddress Take(uint64_t bytes) {
    const FiddlerAddress address = base_ + taken_;
    taken_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    CHECK(counts_ || taken_ <= memory_.bytes(), "{} bytes of {}", taken_, memory_.bytes());
    return address;
  }
  template <typename T>
  FiddlerAddress Array(int64_t count) {
    return Take(static_cast<uint64_t>(count) * sizeof(T));
  }

  bool counts() const { return counts_; }
  uint64_t taken() const { return taken_; }

 private:
  DeviceBuffer memory_;
  FiddlerAddress base_ = kAlignment;  // an address is never 0
  uint64_t taken_ = 0;
  bool counts_ = true;
};

}  // namespace fiddler
