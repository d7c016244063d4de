// How far a set of kernels may be from the oracle (which sums in double), in one place, with reasons. Each is
// relative to the magnitude named beside it, so that sums that cancel are not held to an error nobody can
// meet.
#pragma once

#include <cmath>
#include <cstdint>

namespace fiddler::tolerance {

// A dot product in some lanes (attend): float32 chains of K / 8 additions at worst, which at K = 2048 err by
// 1e-6.
inline constexpr double kDot = 2e-6;

// mat_mul and gate_up's sums, relative to sum_k |x w| + |bias|, with x as it was rounded. A sum is one chain
// of at most `cols` additions in float32. Addition k rounds the sum of k terms, relatively by at most u =
// 2^-24, evenly spread: a deviation of u / sqrt(3) times it. Where terms have one sign, the sum of k of them
// is k / cols of the whole, and errors together deviate by u sqrt(cols) / 3; twice u sqrt(cols) is 6 of
// these (the bound, cols u, would hide bugs). 4 u more are for what is rounded beside the chain: the bias,
// int8's product of two scales and its multiple, which the oracle rounds and int8 arithmetic does not (its
// integers are exact).
inline double Product(int64_t cols) { return 0x1p-24 * (4 + 2 * std::sqrt(static_cast<double>(cols))); }

// rms_norm, relative to |y|: one sum of squares, a root and two products.
inline constexpr double kRmsNorm = 2e-6;

// rope, relative to |a| + |b| of the pair: two products and a sum, each rounded or fused.
inline constexpr double kRope = 2e-7;

// silu(gate) * up, relative to itself, while exp(gate) is a normal float: the polynomial of exp, a division,
// two products.
inline constexpr double kSilu = 5e-7;

// add_rows, relative to |y| + |scale * sum|: fused or not. The sum itself has one order and no error.
inline constexpr double kAddRows = 2e-7;

// attend, relative to max |v|: weights sum to one, so an error of a weight moves the result by at most that
// times |v|. kAttend is the rounding of the weighted sum; a score is off by kDot times scale * sum |q k|, and
// its weight by the same, relatively; twice, as the total is as well. With BF16 keys and values, where that
// error reaches over the border between two BF16, a weight may be rounded to either: attend_testing.h counts
// how many of a query's weights may, and adds a step of BF16 for each of these alone.
inline constexpr double kAttend = 4e-6;
inline constexpr double kAttendPerScore = 2 * kDot;

}  // namespace fiddler::tolerance
