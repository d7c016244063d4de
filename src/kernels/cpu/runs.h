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

// Calls body(first, Size<n>) for runs [first, first + n) of [0, count): as few as can be with n <= kLargest,
// and of sizes as equal as can be.
template <int kLargest, class Body>
[[gnu::always_inline]] inline void ForEachRun(int64_t count, const Body& body) {
  const int64_t runs = (count + kLargest - 1) / kLargest;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t first = count * run / runs;
    CallWithSize<kLargest>(count * (run + 1) / runs - first, first, body);
  }
}

}  // namespace fiddler
