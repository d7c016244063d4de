// Device memory that operations of a GPU compute in on their way: how much they need at most, so that it is
// planned and taken before anything runs (set_scratch in plugin.h). An operation that has more to do than
// fits does it in pieces. The emulated device needs none, but is given the same.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fiddler {

// The largest of what will be asked for.
struct ScratchLimits {
  int64_t tokens = 0;         // of any operation
  int64_t cols = 0;           // of x in any product, the hidden size of FFNs included
  int64_t slice_neurons = 0;  // of any FFN
  int64_t num_heads = 0;
  int64_t head_dim = 0;
};

// x as products take it, rounded: no more than a float each. And sums over parts of the columns, which come
// in parts where thread blocks are fewer than a GPU has places for: 64 tokens at most, and then rows times
// parts are no more than 32 for each of 512 places.
constexpr uint64_t ProductScratchBytes(const ScratchLimits& limits) {
  constexpr int64_t kMostTokens = 64;
  constexpr int64_t kRowsTimesParts = 32 * 512;
  const int64_t x = limits.tokens * ((limits.cols + 63) / 64 * 64);
  return static_cast<uint64_t>(x + std::min(limits.tokens, kMostTokens) * kRowsTimesParts) * sizeof(float);
}

// Sums of queries (a head of a token) over parts of the positions, merged in the end, so that a few queries
// keep all of a GPU busy: two blocks of 16 queries for each of its 132 to 148 multiprocessors, and some more.
inline constexpr int64_t kAttendParts = 64;       // of one query
inline constexpr int64_t kAttendPartials = 8192;  // parts of all queries
constexpr uint64_t AttendScratchBytes(const ScratchLimits& limits) {
  const int64_t partials = std::min(kAttendParts * limits.tokens * limits.num_heads, kAttendPartials);
  return static_cast<uint64_t>(partials * (limits.head_dim + 2)) * sizeof(float);
}

// x; and for every token of an entry (or of some that have few) the activations of some slices, as floats and
// as whole numbers with scales, and what they give.
constexpr uint64_t FfnScratchBytes(const ScratchLimits& limits) {
  constexpr int64_t kSlices = 16;
  constexpr int64_t kLeastTokens = 64;
  const int64_t tokens = std::max(limits.tokens, kLeastTokens);
  return ProductScratchBytes(limits) +
         static_cast<uint64_t>(tokens * (limits.cols + kSlices * limits.slice_neurons * 3 / 2)) *
             sizeof(float);
}

// One after another, so the largest.
constexpr uint64_t ScratchBytes(const ScratchLimits& limits) {
  return std::max({ProductScratchBytes(limits), AttendScratchBytes(limits), FfnScratchBytes(limits)});
}

}  // namespace fiddler
