// The buffers of a forward pass, allocated once for the largest batch, so that a step allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/memory.h"

namespace fiddler {

class Workspace {
 public:
  // A buffer, aligned to a page, valid as long as the workspace. Throws Error if memory is short.
  std::byte* Bytes(int64_t count) { return arena_.Allocate(static_cast<size_t>(count), "workspace").data(); }
  float* Floats(int64_t count) {
    return reinterpret_cast<float*>(Bytes(count * static_cast<int64_t>(sizeof(float))));
  }

  uint64_t bytes() const { return arena_.bytes(); }  // handed out

 private:
  HugePageArena arena_;
};

}  // namespace fiddler
