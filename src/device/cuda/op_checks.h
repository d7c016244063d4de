// What the launchers of ops.h ask of their arguments, and make of them. Plain C++ without fmt: ops.h says
// why.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device/plugin.h"

namespace fiddler::cuda {

template <typename T>
T* At(FiddlerAddress address) {
  return reinterpret_cast<T*>(address);
}

// Whether a float4 can be loaded there.
inline bool OnVector(FiddlerAddress address) { return address % 16 == 0; }

inline int64_t CeilDiv(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Of one dimension: products of two fit in 64 bits, with a size of element.
inline constexpr int64_t kMostElements = int64_t{1} << 30;

// That a size is in [low, high]. `op`: "mat_mul".
inline void RequireSize(const char* op, const char* name, int64_t value, int64_t low,
                        int64_t high = kMostElements) {
  if (value >= low && value <= high) return;
  throw std::runtime_error(std::string(op) + ": " + name + ": expected " + std::to_string(low) + " to " +
                           std::to_string(high) + ", got " + std::to_string(value));
}

// That vectors can be loaded from there: elsewhere a GPU fails for good, and nobody learns where.
inline void RequireAligned(const char* op, const char* name, FiddlerAddress address, uint64_t by) {
  if (address % by == 0) return;
  throw std::runtime_error(std::string(op) + ": " + name + ": expected a multiple of " + std::to_string(by) +
                           ", got " + std::to_string(address));
}

}  // namespace fiddler::cuda
