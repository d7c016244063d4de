// What x is rounded to before a product, number by number: one definition for all sets of kernels, which
// agree to the last bit. Forced inline: also included where the instruction set is not everyone's.
#pragma once

#include <bit>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/ops.h"

namespace fiddler {

// Columns that share a scale.
constexpr int64_t RoundingGroup(Rounding rounding) {
  return rounding == Rounding::kInt8Group64 ? 64 : rounding == Rounding::kInt8Group32 ? 32 : 1;
}

// value ~ scale * q, q a whole number in [-127, 127].
struct Int8Scale {
  float scale;
  float inverse;  // 0 where all values are next to 0

  // `bits`: the largest of the values' magnitudes as unsigned numbers, so that a NaN is the largest of all.
  // No scale makes an infinity a whole number: one of either makes all values NaNs, so that none is lost.
  [[gnu::always_inline]] static Int8Scale Of(uint32_t bits) {
    const float largest = std::bit_cast<float>(bits >= 0x7f800000u ? 0x7fc00000u : bits);
    if (largest < 0x1p-100f) return {0.0f, 0.0f};  // its inverse may not be a float
    return {largest / 127.0f, 127.0f / largest};
  }
  [[gnu::always_inline]] float Round(float value) const { return __builtin_rintf(value * inverse); }
};

[[gnu::always_inline]] inline uint32_t MagnitudeBits(float value) {
  return std::bit_cast<uint32_t>(value) & 0x7fffffffu;
}

// Rounds `count` values, at most one group of them, in place.
[[gnu::always_inline]] inline void RoundGroup(Rounding rounding, int64_t count, float* values) {
  if (rounding == Rounding::kNone) return;
  if (rounding == Rounding::kBF16) {
    for (int64_t i = 0; i < count; ++i) values[i] = ToFloat(ToBF16(values[i]));
    return;
  }
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = MagnitudeBits(values[i]);
    largest = bits > largest ? bits : largest;
  }
  const Int8Scale group = Int8Scale::Of(largest);
  for (int64_t i = 0; i < count; ++i) values[i] = group.Round(values[i]) * group.scale;
}

}  // namespace fiddler
