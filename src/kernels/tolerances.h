// How far a set of kernels may be from the oracle (which sums in double), in one place, with reasons. Each is
// relative to the magnitude named beside it, so that sums that cancel are not held to an error nobody can
// meet.
#pragma once

namespace fiddler::tolerance {

// mat_mul, relative to sum_k |x w| + |bias|. float32 lanes of K / 8 additions at worst: (K / 8) 2^-24 is the
// bound (1.5e-5 at K = 2048), its root the expectation (1e-6): far below any bug, far above rounding.
inline constexpr double kDot = 2e-6;

// rms_norm, relative to |y|: one sum of squares, a root and two products.
inline constexpr double kRmsNorm = 2e-6;

// rope, relative to |a| + |b| of the pair: two products and a sum, each rounded or fused.
inline constexpr double kRope = 2e-7;

// silu_mul, relative to |out|, while exp(gate) is a normal float: the polynomial of exp, a division, two
// products.
inline constexpr double kSilu = 5e-7;

// scaled_add, relative to |y| + |scale x|: fused or not.
inline constexpr double kScaledAdd = 2e-7;

// attend, relative to max |v|: weights sum to one, so an error of a weight moves the result by at most that
// times |v|. kAttend is the rounding of the weighted sum; a score is off by kDot times scale * sum |q k|, and
// its weight by the same, relatively; twice, as the total is as well.
inline constexpr double kAttend = 4e-6;
inline constexpr double kAttendPerScore = 2 * kDot;

}  // namespace fiddler::tolerance
