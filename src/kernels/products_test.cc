// mat_mul of every set against the oracle, and what it promises to the last bit.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/dispatch.h"
#include "kernels/testing.h"
#include "kernels/tolerances.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::Random;
using testing::SameBits;
using testing::Untouched;

struct Shape {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
};

std::string ToString(const Shape& s) {
  return fmt::format("{} [{}, {}] x {} tokens", DTypeName(s.dtype), s.rows, s.cols, s.tokens);
}

// The arguments of one call, and what they point to.
class Problem {
 public:
  Problem(const Shape& shape, Random& random)
      : shape_(shape),
        x_stride_(shape.cols + random.Range(0, 3)),
        y_stride_(shape.rows + random.Range(0, 3)),
        weights_(shape.rows * shape.cols * static_cast<int64_t>(DTypeBytes(shape.dtype))),
        x_((shape.tokens + 2) * x_stride_ - (x_stride_ - shape.cols)),
        bias_(shape.rows),
        row_index_(shape.tokens) {
    for (int64_t i = 0; i < shape.rows * shape.cols; ++i) SetWeight(i, random.Normal());
    for (int64_t t = 0; t < shape.tokens + 2; ++t) {
      for (int64_t k = 0; k < shape.cols; ++k) x_[t * x_stride_ + k] = random.Normal();
    }
    random.FillNormal(bias_);
    for (int32_t& row : row_index_) row = static_cast<int32_t>(random.Range(0, shape.tokens + 1));
  }

  void SetWeight(int64_t i, float value) {
    std::byte* const at = weights_.data() + i * static_cast<int64_t>(DTypeBytes(shape_.dtype));
    if (shape_.dtype == DType::kF32) std::memcpy(at, &value, sizeof(value));
    if (shape_.dtype == DType::kF16) SetBits(i, ToF16(value).bits);
    if (shape_.dtype == DType::kBF16) SetBits(i, ToBF16(value).bits);
  }
  void SetBits(int64_t i, uint16_t bits) { std::memcpy(weights_.data() + 2 * i, &bits, sizeof(bits)); }
  void SetX(int64_t t, int64_t k, float value) { x_[t * x_stride_ + k] = value; }

  // All rows, tokens 0, 1, ..., no bias; y is the caller's.
  MatMulArgs Args(float* y) const {
    return {.w = {weights_.data(), shape_.dtype, shape_.rows, shape_.cols},
            .row_begin = 0,
            .row_end = shape_.rows,
            .tokens = shape_.tokens,
            .x = x_.data(),
            .x_stride = x_stride_,
            .y = y,
            .y_stride = y_stride_};
  }
  const float* bias() const { return bias_.data(); }
  const int32_t* row_index() const { return row_index_.data(); }
  int64_t y_size() const { return shape_.tokens == 0 ? 0 : (shape_.tokens - 1) * y_stride_ + shape_.rows; }

  // sum_k |x w| + |bias|: what the error of y[t, r] is relative to.
  double Magnitude(const MatMulArgs& args, int64_t t, int64_t r) const {
    const float* x = args.x + (args.row_index ? args.row_index[t] : t) * args.x_stride;
    double sum = args.bias ? std::abs(args.bias[r]) : 0;
    for (int64_t k = 0; k < shape_.cols; ++k)
      sum += std::abs(static_cast<double>(x[k]) * Weight(r * shape_.cols + k));
    return sum;
  }

 private:
  float Weight(int64_t i) const {
    const std::byte* const at = weights_.data() + i * static_cast<int64_t>(DTypeBytes(shape_.dtype));
    if (shape_.dtype == DType::kF32) return *reinterpret_cast<const float*>(at);
    if (shape_.dtype == DType::kF16) return ToFloat(*reinterpret_cast<const F16*>(at));
    return ToFloat(*reinterpret_cast<const BF16*>(at));
  }

  Shape shape_;
  int64_t x_stride_;
  int64_t y_stride_;
  GuardedArray<std::byte> weights_;
  GuardedArray<float> x_;  // two rows more than tokens, for gathers
  GuardedArray<float> bias_;
  GuardedArray<int32_t> row_index_;
};

// Runs one call on every set; compares with the oracle inside the range and looks for writes outside.
void ExpectLikeOracle(const Problem& problem, MatMulArgs args) {
  GuardedArray<float> expected(problem.y_size());
  args.y = expected.data();
  GenericKernels().mat_mul(args);
  for (const CpuKernels* kernels : FastKernels()) {
    SCOPED_TRACE(fmt::format("{}, rows [{}, {}), bias {}, gather {}", kernels->isa, args.row_begin,
                             args.row_end, args.bias != nullptr, args.row_index != nullptr));
    GuardedArray<float> y(problem.y_size());
    args.y = y.data();
    kernels->mat_mul(args);
    EXPECT_TRUE(y.FrontIntact());
    for (int64_t i = 0; i < y.size(); ++i) {
      const int64_t t = i / args.y_stride;
      const int64_t r = i % args.y_stride;
      if (r < args.row_begin || r >= args.row_end) {
        ASSERT_TRUE(Untouched(y[i])) << "token " << t << ", row " << r << ": outside the range, written";
        continue;
      }
      const double tolerance = tolerance::kDot * problem.Magnitude(args, t, r);
      ASSERT_NEAR(y[i], expected[i], tolerance) << "token " << t << ", row " << r;
    }
  }
}

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Around every edge of the tiles: registers of 8 and 16, 4 rows, 3 and 6 tokens.
TEST(MatMul, SmallShapesLikeOracle) {
  Random random(1);
  for (const DType dtype : kTypes) {
    for (const int64_t cols : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 40, 48, 131}) {
      for (int64_t tokens = 1; tokens <= 13; ++tokens) {
        const Shape shape{dtype, random.Range(1, 11), cols, tokens};
        SCOPED_TRACE(ToString(shape));
        const Problem problem(shape, random);
        ExpectLikeOracle(problem, problem.Args(nullptr));
      }
    }
  }
}

TEST(MatMul, RandomCallsLikeOracle) {
  Random random(2);
  for (int i = 0; i < 150; ++i) {
    const Shape shape{kTypes[random.Range(0, 2)], random.Range(1, 90), random.Range(1, 300),
                      random.Range(1, 65)};
    SCOPED_TRACE(ToString(shape));
    const Problem problem(shape, random);
    MatMulArgs args = problem.Args(nullptr);
    args.row_begin = random.Range(0, shape.rows);
    args.row_end = random.Range(args.row_begin, shape.rows);
    if (random.Coin()) args.bias = problem.bias();
    if (random.Coin()) args.row_index = problem.row_index();
    ExpectLikeOracle(problem, args);
  }
}

// More than one block of rows (64, or 512 KB) and more than one stretch of k (24 KB of x).
TEST(MatMul, SeveralBlocksAndStretchesLikeOracle) {
  Random random(3);
  for (const DType dtype : kTypes) {
    for (const Shape& shape :
         {Shape{dtype, 150, 2100, 6}, Shape{dtype, 13, 20011, 5}, Shape{dtype, 9, 6145, 2},
          Shape{dtype, 66, 3072, 7}, Shape{dtype, 7, 40003, 1}}) {
      SCOPED_TRACE(ToString(shape));
      const Problem problem(shape, random);
      ExpectLikeOracle(problem, problem.Args(nullptr));
    }
  }
}

TEST(MatMul, NothingToDoWritesNothing) {
  Random random(4);
  const Problem problem({DType::kBF16, 5, 20, 3}, random);
  for (const CpuKernels* kernels : SupportedKernels()) {
    GuardedArray<float> y(problem.y_size());
    MatMulArgs args = problem.Args(y.data());
    args.tokens = 0;
    kernels->mat_mul(args);
    args.tokens = 3;
    args.row_begin = args.row_end = 2;
    kernels->mat_mul(args);
    EXPECT_TRUE(std::all_of(y.begin(), y.end(), Untouched)) << kernels->isa;
  }
}

// One call for all equals one call a token, a row range or a gather, to the last bit.
TEST(MatMul, ResultDependsOnRowAndTokenAlone) {
  Random random(5);
  for (int i = 0; i < 60; ++i) {
    const int64_t cols = random.Pick({1, 40, 100, 131, 1030, 2100, 7000});
    const Shape shape{kTypes[i % 3], random.Range(1, 80), cols, random.Range(2, 20)};
    SCOPED_TRACE(ToString(shape));
    const Problem problem(shape, random);
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      GuardedArray<float> together(problem.y_size());
      MatMulArgs args = problem.Args(together.data());
      args.bias = problem.bias();
      args.row_index = problem.row_index();
      kernels->mat_mul(args);

      GuardedArray<float> apart(problem.y_size());
      args.y = apart.data();
      const int64_t cut_row = random.Range(0, shape.rows);
      const int64_t cut_token = random.Range(0, shape.tokens);
      const auto part = [&](int64_t row_begin, int64_t row_end, int64_t token, int64_t tokens) {
        MatMulArgs piece = args;
        piece.row_begin = row_begin;
        piece.row_end = row_end;
        piece.tokens = tokens;
        piece.row_index = args.row_index + token;
        piece.y = args.y + token * args.y_stride;
        kernels->mat_mul(piece);
      };
      part(0, cut_row, 0, cut_token);
      part(cut_row, shape.rows, 0, cut_token);
      for (int64_t t = cut_token; t < shape.tokens; ++t) part(0, shape.rows, t, 1);

      for (int64_t j = 0; j < together.size(); ++j) {
        ASSERT_TRUE(SameBits(together[j], apart[j]))
            << "token " << j / args.y_stride << ", row " << j % args.y_stride << ": " << together[j]
            << ", alone " << apart[j];
      }
    }
  }
}

// With one weight that is not zero and x = 1, y is that weight, widened: every one of the 65536, but for
// NaNs.
TEST(MatMul, WidensEvery16BitWeightExactly) {
  Random random(6);
  constexpr int64_t kRows = 256;
  constexpr int64_t kCols = 17;
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (int64_t tokens = 1; tokens <= 2; ++tokens) {
      for (int64_t batch = 0; batch < 65536 / kRows; ++batch) {
        Problem problem({dtype, kRows, kCols, tokens}, random);
        for (int64_t i = 0; i < kRows * kCols; ++i) problem.SetBits(i, 0);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t k = 0; k < kCols; ++k) problem.SetX(t, k, 1.0f);
        }
        for (int64_t r = 0; r < kRows; ++r) {
          problem.SetBits(r * kCols + r % kCols, static_cast<uint16_t>(batch * kRows + r));
        }
        for (const CpuKernels* kernels : SupportedKernels()) {
          GuardedArray<float> y(problem.y_size());
          const MatMulArgs args = problem.Args(y.data());
          kernels->mat_mul(args);
          for (int64_t r = 0; r < kRows; ++r) {
            const auto bits = static_cast<uint16_t>(batch * kRows + r);
            const float weight = dtype == DType::kF16 ? ToFloat(F16{bits}) : ToFloat(BF16{bits});
            const float got = y[(tokens - 1) * args.y_stride + r];
            ASSERT_TRUE(weight != weight ? got != got : got == weight)
                << kernels->isa << " " << DTypeName(dtype) << " bits " << bits;
          }
        }
      }
    }
  }
}

// Large numbers that cancel, subnormal ones, and infinities, which must come out as such.
TEST(MatMul, ExtremeValues) {
  Random random(7);
  for (const int64_t tokens : {1, 4}) {
    Problem problem({DType::kF32, 4, 33, tokens}, random);
    for (int64_t k = 0; k < 33; ++k) {
      problem.SetWeight(k, k % 2 == 0 ? 1e30f : -1e30f);
      problem.SetWeight(33 + k, 1e-20f);
      problem.SetWeight(66 + k, 1e-42f);
      problem.SetWeight(99 + k, k == 32 ? std::numeric_limits<float>::infinity() : 1.0f);
      for (int64_t t = 0; t < tokens; ++t) problem.SetX(t, k, k % 2 == 0 ? 1.0f : 0.5f);
    }
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      GuardedArray<float> y(problem.y_size());
      const MatMulArgs args = problem.Args(y.data());
      kernels->mat_mul(args);
      for (int64_t t = 0; t < tokens; ++t) {
        const float* row = y.data() + t * args.y_stride;
        EXPECT_NEAR(row[0], 9e30f, 1e25f);
        EXPECT_NEAR(row[1], 25e-20f, 1e-25f);
        EXPECT_NEAR(row[2], 25e-42f, 1e-43f);
        EXPECT_EQ(row[3], std::numeric_limits<float>::infinity());
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
