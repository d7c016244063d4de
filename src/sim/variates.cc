#include "sim/variates.h"

#include <bit>
#include <cmath>

namespace fiddler {

double PortableLog(double x) {
  // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)).
  constexpr int kMantissaBits = 52;
  constexpr int kBias = 1023;
  constexpr double kSqrtHalf = 0.70710678118654752440;
  constexpr double kLog2 = 0.69314718055994530942;
  uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> kMantissaBits) - (kBias - 1);
  bits = (bits & ((uint64_t{1} << kMantissaBits) - 1)) | (uint64_t{kBias - 1} << kMantissaBits);
  double m = std::bit_cast<double>(bits);  // in [1/2, 1)
  if (m < kSqrtHalf) {
    m *= 2;
    --exponent;
  }
  // log m = 2 artanh z = 2 (z + z^3/3 + z^5/5 ...); |z| <= 0.172, so the first term left out is below 1e-18.
  const double z = (m - 1) / (m + 1);
  const double square = z * z;
  constexpr int kLastTerm = 21;
  double sum = 0;
  for (int term = kLastTerm; term >= 1; term -= 2) sum = sum * square + 1.0 / term;
  return exponent * kLog2 + 2 * z * sum;
}

double NormalVariates::Next() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  for (;;) {
    const double x = 2 * rng_.NextUnit() - 1;
    const double y = 2 * rng_.NextUnit() - 1;
    const double square = x * x + y * y;
    if (square >= 1 || square == 0) continue;
    const double scale = std::sqrt(-2 * PortableLog(square) / square);
    spare_ = y * scale;
    has_spare_ = true;
    return x * scale;
  }
}

double NextGumbel(Rng& rng) {
  // 52 bits and a half: never 0 nor 1, whose logarithms have none.
  const double unit = (static_cast<double>(rng.NextBits() >> 12) + 0.5) * 0x1p-52;
  return -PortableLog(-PortableLog(unit));
}

}  // namespace fiddler
