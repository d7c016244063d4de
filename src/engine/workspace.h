// The buffers of a forward pass, allocated once for the largest batch, so that a step allocates nothing. One
// that only counts says how much that is before anything is taken: whatever is built on it may not run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/memory.h"

namespace fiddler {

class Workspace {
 public:
  enum class Mode : uint8_t { kAllocate, kCount };

  explicit Workspace(Mode mode = Mode::kAllocate) : mode_(mode) {}

  // A buffer, aligned to a page, valid as long as the workspace. Throws Error if memory is short.
  std::byte* Bytes(int64_t count) {
    constexpr uint64_t kPage = 4096;
    bytes_ += (static_cast<uint64_t>(count) + kPage - 1) / kPage * kPage;
    if (mode_ == Mode::kCount) return nullptr;
    return arena_.Allocate(static_cast<size_t>(count), "workspace").data();
  }
  float* Floats(int64_t count) {
    return reinterpret_cast<float*>(Bytes(count * static_cast<int64_t>(sizeof(float))));
  }

  uint64_t bytes() const { return bytes_; }

 private:
  const Mode mode_;
  HugePageArena arena_;
  uint64_t bytes_ = 0;
};

}  // namespace fiddler
