// The buffers of a forward pass, allocated once for the largest batch, so that a step allocates nothing.
#pragma once

#include <cstdint>

#include "base/memory.h"

namespace fiddler {

class Workspace {
 public:
  // A buffer of that many floats, aligned to a page, valid as long as the workspace. Throws Error if memory
  // is short.
  float* Floats(int64_t count) {
    const std::span<std::byte> bytes =
        arena_.Allocate(static_cast<size_t>(count) * sizeof(float), "workspace");
    return reinterpret_cast<float*>(bytes.data());
  }

 private:
  HugePageArena arena_;
};

}  // namespace fiddler
