// For tests only: replaces the global operator new of the test binary by one that counts. Include it in
// exactly one file of a binary. Sanitizers bring their own, so there nothing is counted:
// FIDDLER_COUNTS_ALLOCATIONS is 0 and `allocations` is not there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "base/sanitized.h"

#if FIDDLER_SANITIZED
#define FIDDLER_COUNTS_ALLOCATIONS 0
#else
#define FIDDLER_COUNTS_ALLOCATIONS 1

namespace fiddler {

inline std::atomic<int64_t> allocations{0};

inline void* CountedAllocation(size_t bytes, size_t alignment) {
  ++allocations;
  void* memory = alignment <= alignof(std::max_align_t)
                     ? std::malloc(bytes)
                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace fiddler

void* operator new(size_t bytes) { return fiddler::CountedAllocation(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return fiddler::CountedAllocation(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

#endif
