// Every operation of the emulated device, on threads or not, against one call of the kernel or a plain loop.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/error_testing.h"
#include "device/emulated_testing.h"
#include "kernels/product_testing.h"
#include "kernels/route.h"

namespace fiddler {
namespace {

using testing::AllNaN;
using testing::kModes;
using testing::Mode;
using testing::PackMatrix;
using testing::RandomFloats;
using testing::TestDevice;

TEST(EmulatedOpsTest, RmsNorm) {
  constexpr int64_t kRows = 700;
  constexpr int64_t kCols = 67;
  const std::vector<float> x = RandomFloats(kRows * kCols, 1);
  const std::vector<float> weight = RandomFloats(kCols, 2);
  std::vector<float> expected(x.size());
  BestKernels().rms_norm({.rows = kRows,
                          .cols = kCols,
                          .x = x.data(),
                          .x_stride = kCols,
                          .y = expected.data(),
                          .y_stride = kCols,
                          .weight = weight.data(),
                          .epsilon = 0.01f});
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    FiddlerRmsNorm args = {.rows = kRows,
                           .cols = kCols,
                           .x = device.Put(x),
                           .y = device.Room(kRows * kCols),
                           .weight = device.Put(weight),
                           .epsilon = 0.01f,
                           .padding = 0};
    device->RmsNorm(device.stream(), args);
    EXPECT_EQ(device.Get(args.y, kRows * kCols), expected);
    args.y = args.x;
    device->RmsNorm(device.stream(), args);
    EXPECT_EQ(device.Get(args.x, kRows * kCols), expected);
  }
}

// As one call of the kernels on all panels: every format, rounding and tail.
TEST(EmulatedOpsTest, MatMul) {
  for (const testing::ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {1, 5, 40}) {
      for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {100, 67}, {1090, 64}}) {
        const std::vector<float> x = RandomFloats((tokens + 3) * cols, 3);
        const std::vector<float> bias = RandomFloats(rows, 4);
        const std::vector<std::byte> w = PackMatrix(kind.format, rows, cols, RandomFloats(rows * cols, 5));
        std::vector<int32_t> row_index(static_cast<size_t>(tokens));
        for (size_t t = 0; t < row_index.size(); ++t)
          row_index[t] = static_cast<int32_t>((t * 7) % (x.size() / static_cast<size_t>(cols)));
        for (const bool gather : {false, true}) {
          TestDevice device(gather ? Mode::kThreePool : tokens == 5 ? Mode::kThreaded : Mode::kOneThread);
          const FiddlerAddress on_device = device.Put(w);
          const FiddlerAddress y = device.Room(tokens * rows);
          device->MatMul(device.stream(), {.tokens = tokens,
                                           .x = device.Put(x),
                                           .row_index = gather ? device.Put(row_index) : 0,
                                           .w = {.data = on_device,
                                                 .rows = rows,
                                                 .cols = cols,
                                                 .format = static_cast<int32_t>(kind.format),
                                                 .padding = 0},
                                           .bias = gather ? device.Put(bias) : 0,
                                           .y = y,
                                           .rounding = static_cast<int32_t>(kind.rounding),
                                           .padding = 0});
          testing::AlignedBytes packed(tokens * PackedTokenBytes(cols));
          testing::AlignedBytes weights(w);
          const int64_t tiles = BestKernels().num_tiles(kind.rounding, tokens);
          BestKernels().pack({.rounding = kind.rounding,
                              .tokens = tokens,
                              .cols = cols,
                              .x = x.data(),
                              .x_stride = cols,
                              .row_index = gather ? row_index.data() : nullptr,
                              .tile_end = tiles,
                              .packed = packed.data()});
          std::vector<float> expected(static_cast<size_t>(tokens * rows));
          const PackedMatrix matrix = {
              .data = weights.data(), .format = kind.format, .rows = rows, .cols = cols};
          BestKernels().mat_mul({.w = matrix,
                                 .panel_end = matrix.num_panels(),
                                 .rounding = kind.rounding,
                                 .tokens = tokens,
                                 .x = packed.data(),
                                 .bias = gather ? bias.data() : nullptr,
                                 .y = expected.data(),
                                 .y_stride = rows});
          ASSERT_EQ(device.Get(y, tokens * rows), expected)
              << FormatName(kind.format) << " [" << rows << ", " << cols << "] " << tokens;
        }
      }
    }
  }
}

TEST(EmulatedOpsTest, AddAndSigmoid) {
  constexpr int64_t kCount = 100'001;
  const std::vector<float> x = RandomFloats(kCount, 6);
  const std::vector<float> y = RandomFloats(kCount, 7);
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const FiddlerAddress x_there = device.Put(x);
    const FiddlerAddress y_there = device.Put(y);
    device->Add(device.stream(), {.count = kCount, .x = x_there, .y = y_there});
    device->Sigmoid(device.stream(), {.count = kCount, .x = x_there});
    const std::vector<float> sums = device.Get(y_there, kCount);
    const std::vector<float> sigmoids = device.Get(x_there, kCount);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(sums[i], x[i] + y[i]);
      ASSERT_NEAR(sigmoids[i], 1 / (1 + std::exp(-static_cast<double>(x[i]))), 1e-7);
    }
  }
}

TEST(EmulatedOpsTest, Route) {
  constexpr int64_t kTokens = 9;
  constexpr int64_t kExperts = 60;
  constexpr int64_t kTopK = 4;
  for (const bool renormalize : {false, true}) {
    std::vector<float> logits = RandomFloats(kTokens * kExperts, 8);
    TestDevice device;
    const FiddlerAddress experts = device.Room<int32_t>(kTokens * kTopK);
    const FiddlerAddress weights = device.Room(kTokens * kTopK);
    device->Route(device.stream(), {.tokens = kTokens,
                                    .num_experts = kExperts,
                                    .top_k = kTopK,
                                    .logits = device.Put(logits),
                                    .experts = experts,
                                    .weights = weights,
                                    .renormalize = renormalize,
                                    .padding = 0});
    std::vector<int32_t> expected_experts(kTokens * kTopK);
    std::vector<float> expected_weights(kTokens * kTopK);
    for (int64_t t = 0; t < kTokens; ++t) {
      Route({.num_experts = kExperts,
             .top_k = kTopK,
             .renormalize = renormalize,
             .logits = logits.data() + t * kExperts,
             .experts = expected_experts.data() + t * kTopK,
             .weights = expected_weights.data() + t * kTopK});
    }
    EXPECT_EQ(device.Get<int32_t>(experts, kTokens * kTopK), expected_experts);
    EXPECT_EQ(device.Get(weights, kTokens * kTopK), expected_weights);
    if (renormalize) {
      EXPECT_NEAR(std::accumulate(&expected_weights[0], &expected_weights[kTopK], 0.0f), 1, 1e-6f);
    }
  }
}

TEST(EmulatedOpsTest, CopiesAndClear) {
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const std::vector<float> values = RandomFloats(1'000'000, 9);
    const FiddlerAddress there = device.Put(values);
    EXPECT_EQ(device.Get(there, std::ssize(values)), values);
    device->Clear(device.stream(), there + 4, 4);
    EXPECT_EQ(device.Get(there, 3), (std::vector<float>{values[0], 0, values[2]}));
    EXPECT_TRUE(AllNaN(device.Get(device.Room(1'000'000), 1'000'000))) << "not poisoned";
  }
}

}  // namespace
}  // namespace fiddler
