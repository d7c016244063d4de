// Cuts a count that is known at run time into runs of sizes that are known at compile time.
#pragma once

#include <cstdint>

namespace fiddler {

inline constexpr int64_t kCacheLine = 64;

template <int N>
struct Size {
  static constexpr int kValue = N;
};

template <int kLargest, class Body>
[[gnu::always_inline]] inline void CallWithSize(int64_t size, int64_t first, const Body& body) {
  if (size == kLargest) return body(first, Size<kLargest>());
  if constexpr (kLargest > 1) CallWithSize<kLargest - 1>(size, first, body);
}

// [0, count) as runs [first, first + n): as few as can be with n <= kLargest, and of sizes as equal as can
// be.
template <int kLargest>
[[gnu::always_inline]] constexpr int64_t NumRuns(int64_t count) {
  return (count + kLargest - 1) / kLargest;
}

// Calls body(first, Size<n>) for runs begin, ..., end - 1 of [0, count).
template <int kLargest, class Body>
[[gnu::always_inline]] inline void ForEachRun(int64_t count, int64_t begin, int64_t end, const Body& body) {
  const int64_t runs = NumRuns<kLargest>(count);
  for (int64_t run = begin; run < end; ++run) {
    const int64_t first = count * run / runs;
    CallWithSize<kLargest>(count * (run + 1) / runs - first, first, body);
  }
}

}  // namespace fiddler
