// Pins the memory that experts are copied from, piece by piece, on a thread of its own, while the model
// already answers: registering 90 GB with a driver takes many seconds, and until a piece is pinned copies
// from it work too, only slower. What cannot be pinned stays as it is.
//
// The device must allow it (plugin.h: threads), and outlive this object, as the memory must.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"

namespace fiddler {

class BackgroundPin {
 public:
  // The regions do not overlap. Throws Error if the system refuses a thread.
  BackgroundPin(Device& device, const std::vector<std::span<const std::byte>>& regions);
  BackgroundPin(const BackgroundPin&) = delete;
  BackgroundPin& operator=(const BackgroundPin&) = delete;
  ~BackgroundPin();  // once the piece at hand is pinned; unpins all

  uint64_t bytes() const { return bytes_; }  // of all regions
  uint64_t pinned_bytes() const { return pinned_bytes_.load(std::memory_order_acquire); }
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Waits for the end: empty, or why not all is pinned.
  std::string Finish();

 private:
  void Work();

  Device& device_;
  std::vector<std::span<const std::byte>> pieces_;
  uint64_t bytes_ = 0;
  std::atomic<uint64_t> pinned_bytes_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> failed_ = false;
  size_t pinned_pieces_ = 0;  // the thread's, until it is joined; so is error_
  std::string error_;
  std::thread thread_;
};

}  // namespace fiddler
