// Values at the ends of their ranges: every weight of 16 bits, zeros, the largest and smallest numbers, NaNs
// and infinities, which come out of a product as they would in float32.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/dispatch.h"
#include "kernels/product_testing.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::Product;
using testing::ProductKind;
using testing::ProductKinds;
using testing::Random;
using testing::SameBits;

using Floats = GuardedArray<float>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

bool IsInt8(Rounding rounding) { return rounding != Rounding::kNone && rounding != Rounding::kBF16; }

void MatMul(const CpuKernels& kernels, const Product& product, Floats& y) {
  kernels.mat_mul(product.MatMul(*product.PackedX(kernels), y.data()));
}

void FillX(Product& product, float value) {
  for (int64_t t = 0; t < product.shape().tokens; ++t) {
    for (int64_t k = 0; k < product.shape().cols; ++k) product.SetX(t, k, value);
  }
}

void FillWeights(Product& product, float value) {
  product.SetWeights(
      std::vector<float>(static_cast<size_t>(product.shape().rows * product.shape().cols), value));
}

// NaN, an infinity of this sign, or a number.
enum class Class { kNumber, kNotANumber, kPlusInfinity, kMinusInfinity };
Class ClassOf(float value) {
  if (std::isnan(value)) return Class::kNotANumber;
  if (std::isinf(value)) return value > 0 ? Class::kPlusInfinity : Class::kMinusInfinity;
  return Class::kNumber;
}

// With one weight that is not zero and x = 1, y is that weight, widened: every one of the 65536. Only
// vdpbf16ps takes subnormals for zeros, which nobody can tell it not to.
TEST(MatMul, WidensEvery16BitWeightExactly) {
  Random random(1);
  constexpr int64_t kRows = 65536;
  for (const ProductKind kind : ProductKinds()) {
    if (kind.format != WeightFormat::kF16 && kind.format != WeightFormat::kBF16) continue;
    for (int64_t tokens = 1; tokens <= 2; ++tokens) {
      Product product({kind, kRows, 3, tokens}, random);
      FillWeights(product, 0);
      FillX(product, 1);
      for (int64_t r = 0; r < kRows; ++r) product.SetBits(r, r % 3, static_cast<uint16_t>(r));
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(fmt::format("{} {}", kernels->isa, ToString(product.shape())));
        const bool flushes =
            kernels->isa == std::string_view("avx512_bf16") && kind.rounding == Rounding::kBF16;
        Floats y(product.y_size());
        MatMul(*kernels, product, y);
        for (int64_t r = 0; r < kRows; ++r) {
          const auto bits = static_cast<uint16_t>(r);
          float weight = kind.format == WeightFormat::kF16 ? ToFloat(F16{bits}) : ToFloat(BF16{bits});
          if (flushes && std::abs(weight) < std::numeric_limits<float>::min()) weight = 0;
          const float got = y[(tokens - 1) * product.y_stride() + r];
          ASSERT_TRUE(weight != weight ? got != got : got == weight) << "bits " << bits << ": " << got;
        }
      }
    }
  }
}

// Every whole number of the int formats, in every column of a group.
TEST(MatMul, EveryWholeNumber) {
  Random random(2);
  for (const ProductKind kind : ProductKinds()) {
    if (kind.format != WeightFormat::kInt8 && kind.format != WeightFormat::kInt4) continue;
    const bool int8 = kind.format == WeightFormat::kInt8;
    const int low = int8 ? -127 : -8;
    const int high = int8 ? 127 : 7;
    const int64_t cols = LayoutOf(kind.format).cols + 3;
    Product product({kind, high - low + 1, cols, cols}, random);
    FillWeights(product, 0);
    FillX(product, 0);
    for (int64_t r = 0; r < product.shape().rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        product.SetScale(r, k, ToBF16(-0.5f));
        product.SetWhole(r, k, (static_cast<int>(r) + static_cast<int>(k) * 7) % (high - low + 1) + low);
      }
    }
    for (int64_t t = 0; t < cols; ++t) product.SetX(t, t, 127);  // an int8 of 127, exactly
    for (const CpuKernels* kernels : SupportedKernels()) {
      Floats y(product.y_size());
      MatMul(*kernels, product, y);
      for (int64_t t = 0; t < cols; ++t) {
        for (int64_t r = 0; r < product.shape().rows; ++r) {
          const int64_t q = (r + t * 7) % (high - low + 1) + low;
          ASSERT_EQ(y[t * product.y_stride() + r], -63.5f * static_cast<float>(q))
              << kernels->isa << ", column " << t << ", " << q;
        }
      }
    }
  }
}

// All weights and all x at the end of their range: no sum of a group overflows, and as all sums are below
// 2^24, all are exact.
TEST(MatMul, LargestSums) {
  Random random(3);
  constexpr int64_t kCols = 1024;
  for (const ProductKind kind : ProductKinds()) {
    for (const float x : {127.0f, -127.0f}) {
      for (const int q : {-8, -7, 7, -127, 127}) {
        const bool int8 = kind.format == WeightFormat::kInt8;
        const bool int4 = kind.format == WeightFormat::kInt4;
        if (int4 && std::abs(q) > 8) continue;
        Product product({kind, 33, kCols, 3}, random);
        FillX(product, x);
        FillWeights(product, static_cast<float>(q));
        for (int64_t r = 0; (int8 || int4) && r < 33; ++r) {
          for (int64_t k = 0; k < kCols; ++k) {
            product.SetScale(r, k, ToBF16(1));
            product.SetWhole(r, k, q);
          }
        }
        for (const CpuKernels* kernels : FastKernels()) {
          Floats y(product.y_size());
          MatMul(*kernels, product, y);
          for (int64_t t = 0; t < 3; ++t)
            for (int64_t r = 0; r < 33; ++r)
              ASSERT_EQ(y[t * product.y_stride() + r], x * static_cast<float>(q) * kCols)
                  << kernels->isa << " " << ToString(product.shape()) << ", q " << q;
        }
      }
    }
  }
}

// Magnitudes next to float32's largest, which no rounding may push over it, and far below 1.
TEST(MatMul, LargeAndSmallNumbers) {
  Random random(4);
  for (const ProductKind kind : ProductKinds()) {
    for (const float scale : {kLargest, 1e30f, 1e-15f, 1e-25f}) {
      for (const int64_t tokens : {1, 5}) {
        Product product({kind, 40, 131, tokens}, random);
        SCOPED_TRACE(fmt::format("{}, x up to {}", ToString(product.shape()), scale));
        if (scale > 1) FillWeights(product, 0x1p-8f);
        for (int64_t t = 0; t < tokens; ++t) {
          // Below the largest BF16, and alternating, so that no partial sum is infinite.
          for (int64_t k = 0; k < 131; ++k) product.SetX(t, k, (k % 2 == 0 ? 0.99f : -0.97f) * scale);
        }
        const auto rounded = product.PackedX(GenericKernels());
        const std::vector<double> magnitudes = product.Magnitudes(*rounded);
        Floats expected(product.y_size());
        MatMul(GenericKernels(), product, expected);
        for (const CpuKernels* kernels : FastKernels()) {
          Floats y(product.y_size());
          MatMul(*kernels, product, y);
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t r = 0; r < 40; ++r) {
              const int64_t i = t * product.y_stride() + r;
              ASSERT_NEAR(y[i], expected[i],
                          tolerance::Product(131) * magnitudes[static_cast<size_t>(t * 40 + r)])
                  << kernels->isa;
              ASSERT_NE(y[i], 0) << kernels->isa;
            }
          }
        }
      }
    }
  }
}

// Zeros, in all of x, some groups of it or the weights, are exactly that; so are subnormals, or as good as.
TEST(MatMul, ZerosAndSubnormals) {
  Random random(5);
  for (const ProductKind kind : ProductKinds()) {
    for (const int64_t tokens : {1, 4}) {
      SCOPED_TRACE(FormatName(kind.format));
      Product product({kind, 40, 200, tokens}, random);
      for (const float nothing : {0.0f, -0.0f, 1e-40f, -1e-45f}) {
        FillX(product, nothing);
        for (const CpuKernels* kernels : FastKernels()) {
          Floats y(product.y_size());
          MatMul(*kernels, product, y);
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t r = 0; r < 40; ++r) {
              const float got = y[t * product.y_stride() + r];
              const bool zero = std::abs(nothing) == 0 || IsInt8(kind.rounding);
              ASSERT_NEAR(got, 0, zero ? 0 : 200 * 1e-40) << kernels->isa;
              // In float32 a subnormal is a number like another.
              if (nothing == 1e-40f && kind.rounding == Rounding::kNone) {
                ASSERT_NE(got, 0) << kernels->isa;
              }
            }
          }
        }
      }
      // One column of x in the last group: all others add nothing, whatever their weights.
      FillX(product, 0);
      for (int64_t t = 0; t < tokens; ++t) product.SetX(t, 199, 2);
      std::vector<float> weights(200);
      for (const CpuKernels* kernels : FastKernels()) {
        Floats y(product.y_size());
        MatMul(*kernels, product, y);
        for (int64_t r = 0; r < 40; ++r) {
          UnpackRow(product.Matrix(), r, weights.data());
          const float expected = 2 * weights[199];
          for (int64_t t = 0; t < tokens; ++t)
            ASSERT_NEAR(y[t * product.y_stride() + r], expected, 3e-7 * std::abs(expected)) << kernels->isa;
        }
      }
      FillX(product, 3);
      FillWeights(product, 0);
      for (const CpuKernels* kernels : FastKernels()) {
        Floats y(product.y_size());
        MatMul(*kernels, product, y);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t r = 0; r < 40; ++r) ASSERT_EQ(y[t * product.y_stride() + r], 0) << kernels->isa;
      }
    }
  }
}

// What one value of x that is no number does to its token: what float32 would, and, where x is rounded by
// groups, a NaN. No other token notices.
TEST(MatMul, NanAndInfinityInX) {
  Random random(6);
  for (const ProductKind kind : ProductKinds()) {
    for (int i = 0; i < 30; ++i) {
      Product product({kind, random.Range(1, 70), random.Pick({1, 33, 64, 131, 200}), random.Range(1, 15)},
                      random);
      const int64_t token = random.Range(0, product.shape().tokens - 1);
      const int64_t col = random.Range(0, product.shape().cols - 1);
      const float usual = product.X(token, col);
      for (const float value : {kNan, -kNan, kInfinity, -kInfinity}) {
        SCOPED_TRACE(
            fmt::format("{}: {} in token {}, column {}", ToString(product.shape()), value, token, col));
        product.SetX(token, col, value);
        Floats expected(product.y_size());
        MatMul(GenericKernels(), product, expected);
        for (const CpuKernels* kernels : FastKernels()) {
          Floats y(product.y_size());
          MatMul(*kernels, product, y);
          product.SetX(token, col, usual);
          Floats before(product.y_size());
          MatMul(*kernels, product, before);
          product.SetX(token, col, value);
          for (int64_t t = 0; t < product.shape().tokens; ++t) {
            for (int64_t r = 0; r < product.shape().rows; ++r) {
              const int64_t at = t * product.y_stride() + r;
              if (t != token) {
                ASSERT_TRUE(SameBits(y[at], before[at])) << kernels->isa << ", token " << t << ", row " << r;
                continue;
              }
              ASSERT_NE(ClassOf(y[at]), Class::kNumber) << kernels->isa << ", row " << r;
              ASSERT_EQ(ClassOf(y[at]), ClassOf(expected[at])) << kernels->isa << ", row " << r;
              if (IsInt8(kind.rounding)) {
                ASSERT_EQ(ClassOf(y[at]), Class::kNotANumber) << kernels->isa << ", row " << r;
              }
            }
          }
        }
      }
    }
  }
}

// The same of a weight, or of a scale of INT8 and INT4, and the other rows.
TEST(MatMul, NanAndInfinityInWeights) {
  Random random(7);
  for (const ProductKind kind : ProductKinds()) {
    for (int i = 0; i < 30; ++i) {
      Product product({kind, random.Range(1, 70), random.Pick({1, 33, 64, 131, 200}), random.Range(1, 15)},
                      random);
      std::vector<float> weights(static_cast<size_t>(product.shape().rows * product.shape().cols));
      random.FillNormal(weights);
      const int64_t row = random.Range(0, product.shape().rows - 1);
      const int64_t col = random.Range(0, product.shape().cols - 1);
      for (const float value : {kNan, kInfinity, -kInfinity}) {
        SCOPED_TRACE(fmt::format("{}: {} in row {}, column {}", ToString(product.shape()), value, row, col));
        product.SetWeights(weights);
        std::vector<std::unique_ptr<Floats>> before;
        for (const CpuKernels* kernels : FastKernels()) {
          before.push_back(std::make_unique<Floats>(product.y_size()));
          MatMul(*kernels, product, *before.back());
        }
        const bool scaled = kind.format == WeightFormat::kInt8 || kind.format == WeightFormat::kInt4;
        if (scaled) {
          product.SetScale(row, col, ToBF16(value));
        } else {
          std::vector<float> spoilt = weights;
          spoilt[static_cast<size_t>(row * product.shape().cols + col)] = value;
          product.SetWeights(spoilt);
        }
        Floats expected(product.y_size());
        MatMul(GenericKernels(), product, expected);
        size_t set = 0;
        for (const CpuKernels* kernels : FastKernels()) {
          Floats y(product.y_size());
          MatMul(*kernels, product, y);
          for (int64_t t = 0; t < product.shape().tokens; ++t) {
            for (int64_t r = 0; r < product.shape().rows; ++r) {
              const int64_t at = t * product.y_stride() + r;
              if (r != row) {
                ASSERT_TRUE(SameBits(y[at], (*before[set])[at])) << kernels->isa << ", row " << r;
                continue;
              }
              ASSERT_NE(ClassOf(y[at]), Class::kNumber) << kernels->isa << ", token " << t;
              // An infinite scale is of many weights, whose infinities meet as they do.
              if (!scaled) {
                ASSERT_EQ(ClassOf(y[at]), ClassOf(expected[at])) << kernels->isa << ", token " << t;
              }
            }
          }
          ++set;
        }
      }
    }
  }
}

// gate_up makes of gates, through a weight of that value and x = 1, what silu is. All of exp's range through
// silu(g) = g exp(g) / (1 + exp(g)): relative accuracy down to where exp(g) is no longer normal (-87.3),
// absolute from there on, and no overflow anywhere.
TEST(GateUp, SiluOverItsWholeRange) {
  Random random(8);
  std::vector<float> gates;
  for (double g = -87.3; g < 90; g += 0.0037) gates.push_back(static_cast<float>(g));
  const size_t accurate = gates.size();
  for (const float gate : {-88.0f, -95.0f, -103.9f, -104.1f, -200.0f, -1e10f, -3e38f}) gates.push_back(gate);
  const size_t vanishing = gates.size();
  for (const float gate : {89.0f, 200.0f, 1e10f, 3e38f, kInfinity}) gates.push_back(gate);
  const size_t itself = gates.size();
  gates.insert(gates.end(), {kNan, -kInfinity});  // as in silu's definition: -infinity times 0
  const size_t none = gates.size();
  gates.resize((gates.size() + 15) / 16 * 16, 0.0f);

  const auto neurons = static_cast<int64_t>(gates.size());
  std::vector<float> weights(static_cast<size_t>(2 * neurons), 1.0f);
  for (int64_t n = 0; n < neurons; ++n)
    weights[static_cast<size_t>(n / 16 * 32 + n % 16)] = gates[static_cast<size_t>(n)];
  for (const int64_t tokens : {1, 3}) {
    Product product({{WeightFormat::kF32, Rounding::kNone}, 2 * neurons, 1, tokens}, random);
    product.SetWeights(weights);
    FillX(product, 1);
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      Floats h(product.h_size());
      kernels->gate_up(product.GateUp(*product.PackedX(*kernels), h.data()));
      for (size_t i = 0; i < gates.size(); ++i) {
        const double gate = gates[i];
        const float got = h[(tokens - 1) * product.y_stride() + static_cast<int64_t>(i)];
        const double expected = gate / (1 + std::exp(-gate));
        if (i < accurate) {
          ASSERT_NEAR(got, expected, tolerance::kSilu * std::abs(expected)) << gate;
        } else if (i < vanishing) {
          ASSERT_NEAR(got, 0, 1e-35) << gate;
        } else if (i < itself) {
          ASSERT_EQ(got, gates[i]);
        } else if (i < none) {
          ASSERT_TRUE(std::isnan(got)) << gate;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
