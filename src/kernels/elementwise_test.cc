// The ops on rows and single numbers, of every set, against the oracle.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/probe.h"
#include "kernels/testing.h"
#include "kernels/tolerances.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::Random;
using testing::Untouched;

constexpr int64_t kSizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 100, 127, 128, 129, 131, 1000};

TEST(RmsNorm, LikeOracle) {
  Random random(1);
  for (const int64_t cols : kSizes) {
    for (const float scale : {1.0f, 1e-6f, 1e6f}) {
      RmsNormArgs args{.rows = cols == 0 ? 0 : 3,
                       .cols = cols,
                       .x_stride = cols + 1,
                       .y_stride = cols + 2,
                       .epsilon = 1e-6f};
      GuardedArray<float> x(3 * args.x_stride);
      GuardedArray<float> weight(cols);
      GuardedArray<float> expected(3 * args.y_stride);
      random.FillNormal(x, scale);
      random.FillNormal(weight);
      args.x = x.data();
      args.weight = weight.data();
      args.y = expected.data();
      GenericKernels().rms_norm(args);
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(fmt::format("{}, {} columns, scale {}", kernels->isa, cols, scale));
        GuardedArray<float> y(3 * args.y_stride);
        args.y = y.data();
        kernels->rms_norm(args);
        EXPECT_TRUE(y.FrontIntact());
        for (int64_t i = 0; i < y.size(); ++i) {
          if (i % args.y_stride < args.cols && i / args.y_stride < args.rows) {
            ASSERT_NEAR(y[i], expected[i], tolerance::kRmsNorm * std::abs(expected[i])) << i;
          } else {
            ASSERT_TRUE(Untouched(y[i])) << i;
          }
        }
      }
    }
  }
}

TEST(RmsNorm, InPlace) {
  Random random(2);
  GuardedArray<float> x(2 * 37);
  GuardedArray<float> weight(37);
  GuardedArray<float> expected(2 * 37);
  random.FillNormal(x);
  random.FillNormal(weight);
  const RmsNormArgs args{.rows = 2,
                         .cols = 37,
                         .x = x.data(),
                         .x_stride = 37,
                         .y = expected.data(),
                         .y_stride = 37,
                         .weight = weight.data(),
                         .epsilon = 1e-5f};
  for (const CpuKernels* kernels : SupportedKernels()) {
    kernels->rms_norm(args);
    GuardedArray<float> y(2 * 37);
    std::copy(x.begin(), x.end(), y.begin());
    RmsNormArgs in_place = args;
    in_place.x = in_place.y = y.data();
    kernels->rms_norm(in_place);
    for (int64_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], expected[i]) << kernels->isa << " " << i;
  }
}

TEST(Rope, LikeOracle) {
  Random random(3);
  for (const int64_t head_dim : {2, 6, 16, 32, 34, 64, 80, 128, 160}) {
    for (const int64_t rotary_dim : {head_dim, head_dim / 4 * 2}) {
      RopeArgs args{.heads = 3, .head_dim = head_dim, .rotary_dim = rotary_dim};
      GuardedArray<float> start(3 * head_dim);
      GuardedArray<float> cos(rotary_dim / 2);
      GuardedArray<float> sin(rotary_dim / 2);
      GuardedArray<float> expected(3 * head_dim);
      random.FillNormal(start);
      std::copy(start.begin(), start.end(), expected.begin());
      for (int64_t i = 0; i < rotary_dim / 2; ++i) {
        cos[i] = std::cos(static_cast<float>(i));
        sin[i] = std::sin(static_cast<float>(i));
      }
      args.cos = cos.data();
      args.sin = sin.data();
      args.x = expected.data();
      GenericKernels().rope(args);
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(fmt::format("{}, {} of {} dimensions", kernels->isa, rotary_dim, head_dim));
        GuardedArray<float> x(3 * head_dim);
        std::copy(start.begin(), start.end(), x.begin());
        args.x = x.data();
        kernels->rope(args);
        EXPECT_TRUE(x.FrontIntact());
        for (int64_t i = 0; i < x.size(); ++i) {
          const int64_t d = i % head_dim;
          if (d >= rotary_dim) {
            ASSERT_EQ(x[i], start[i]) << i;
            continue;
          }
          const int64_t partner = d < rotary_dim / 2 ? i + rotary_dim / 2 : i - rotary_dim / 2;
          const double magnitude = std::abs(start[i]) + std::abs(start[partner]);
          ASSERT_NEAR(x[i], expected[i], tolerance::kRope * magnitude) << i;
        }
      }
    }
  }
}

TEST(Add, LikeOracle) {
  Random random(5);
  for (const int64_t n : kSizes) {
    GuardedArray<float> x(n);
    GuardedArray<float> start(n);
    random.FillNormal(x);
    random.FillNormal(start);
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(fmt::format("{}, {}", kernels->isa, n));
      GuardedArray<float> y(n);
      std::copy(start.begin(), start.end(), y.begin());
      kernels->add(n, x.data(), y.data());
      EXPECT_TRUE(y.FrontIntact());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], start[i] + x[i]) << i;
    }
  }
}

TEST(AddRows, LikeOracle) {
  Random random(5);
  for (const int64_t cols : kSizes) {
    for (int64_t rows = 1; rows <= 9; ++rows) {
      const int64_t stride = random.Pick({0, cols, cols + 1, cols + 5});
      GuardedArray<float> x((rows - 1) * stride + cols);
      GuardedArray<float> start(cols);
      random.FillNormal(x);
      random.FillNormal(start);
      AddRowsArgs args{.rows = rows, .cols = cols, .x = x.data(), .x_stride = stride, .scale = -0.7f};
      for (const CpuKernels* kernels : FastKernels()) {
        SCOPED_TRACE(fmt::format("{}, {} rows of {}, stride {}", kernels->isa, rows, cols, stride));
        GuardedArray<float> expected(cols);
        GuardedArray<float> y(cols);
        std::copy(start.begin(), start.end(), expected.begin());
        std::copy(start.begin(), start.end(), y.begin());
        args.y = expected.data();
        GenericKernels().add_rows(args);
        args.y = y.data();
        kernels->add_rows(args);
        ASSERT_TRUE(y.FrontIntact());
        for (int64_t i = 0; i < cols; ++i) {
          float sum = x[i];
          for (int64_t r = 1; r < rows; ++r) sum += x[r * stride + i];
          const double magnitude = std::abs(start[i]) + std::abs(0.7 * sum);
          ASSERT_NEAR(y[i], expected[i], tolerance::kAddRows * magnitude) << i;
        }
      }
    }
  }
}

// With nothing to add to, the sum is that of the rows in order, to the last bit: whatever the part of a row.
TEST(AddRows, OneOrderWhateverThePart) {
  Random random(7);
  constexpr int64_t kCols = 500;
  constexpr int64_t kRows = 7;
  GuardedArray<float> x(kRows * kCols);
  random.FillNormal(x);
  for (const CpuKernels* kernels : SupportedKernels()) {
    for (int i = 0; i < 50; ++i) {
      const int64_t begin = random.Range(0, kCols);
      const int64_t cols = random.Range(0, kCols - begin);
      GuardedArray<float> y(cols);
      std::fill(y.begin(), y.end(), 0.0f);
      kernels->add_rows(
          {.rows = kRows, .cols = cols, .x = x.data() + begin, .x_stride = kCols, .scale = 1, .y = y.data()});
      for (int64_t c = 0; c < cols; ++c) {
        float sum = x[begin + c];
        for (int64_t r = 1; r < kRows; ++r) sum += x[r * kCols + begin + c];
        ASSERT_EQ(y[c], sum) << kernels->isa << ", columns from " << begin << ", " << c;
      }
    }
  }
}

TEST(Probes, DoWhatTheySay) {
  Random random(6);
  for (const CpuKernels* kernels : SupportedKernels()) {
    for (const auto probe : {kernels->f32_probe, kernels->bf16_probe, kernels->int8_probe}) {
      EXPECT_GE(probe(10), 20.0) << kernels->isa;
      EXPECT_GT(MeasureRate(probe), 1e6) << kernels->isa;
    }
    const std::vector<float> numbers(100'000, 1.0f);
    EXPECT_GT(MeasureReadRate(*kernels, numbers), 1e6) << kernels->isa;
    for (const int64_t n : kSizes) {
      GuardedArray<float> data(n);
      random.FillNormal(data);
      double sum = 0;
      double magnitude = 0;
      for (const float value : data) {
        sum += value;
        magnitude += std::abs(value);
      }
      EXPECT_NEAR(kernels->read_probe(n, data.data()), sum, 1e-5 * magnitude) << kernels->isa << " " << n;
    }
  }
}

}  // namespace
}  // namespace fiddler
