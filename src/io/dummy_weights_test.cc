#include "io/dummy_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "io/test_files.h"

namespace fiddler {
namespace {

std::vector<float> Floats(const TensorView& tensor) {
  std::vector<float> values(tensor.bytes.size() / DTypeBytes(tensor.dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const std::byte* element = tensor.bytes.data() + i * DTypeBytes(tensor.dtype);
    if (tensor.dtype == DType::kF32) {
      std::memcpy(&values[i], element, 4);
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, element, 2);
      values[i] = tensor.dtype == DType::kBF16 ? ToFloat(BF16{bits}) : ToFloat(F16{bits});
    }
  }
  return values;
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments MomentsOf(const std::vector<float>& values) {
  Moments moments;
  const auto count = static_cast<double>(values.size());
  for (const float value : values) moments.mean += value / count;
  for (const float value : values)
    moments.deviation += (value - moments.mean) * (value - moments.mean) / count;
  moments.deviation = std::sqrt(moments.deviation);
  return moments;
}

std::vector<float> Make(uint64_t seed, DType dtype, unsigned threads, const std::string& name,
                        const Shape& shape) {
  NoProgress progress;
  DummyWeights weights(seed, dtype, progress, threads);
  return Floats(weights.Require(name, shape));
}

class EveryDType : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DummyWeights, EveryDType, testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& test) { return std::string(DTypeName(test.param)); });

TEST_P(EveryDType, MatricesKeepActivationsSane) {
  const std::vector<float> values = Make(1, GetParam(), 2, "w", {1000, 4096});
  ASSERT_EQ(values.size(), 4'096'000u);
  const Moments moments = MomentsOf(values);
  // The mean of n draws has a deviation of 1/64/sqrt(n) = 8e-6; five of these are allowed. Truncating to F16
  // is symmetric, and makes every value smaller by at most 2^-11 of it.
  EXPECT_NEAR(moments.mean, 0, 4e-5);
  EXPECT_NEAR(moments.deviation, 1.0 / 64, 1e-3 / 64);
  const float largest = std::sqrt(3.0F) / 64 * 1.004F;  // rounding to BF16 may add 2^-8 of it
  for (const float value : values) {
    ASSERT_LE(std::abs(value), largest);
    ASSERT_NE(value, 0.0F);
  }
}

TEST_P(EveryDType, VectorsAreNormWeightsOrBiases) {
  for (const char* name : {"model.norm.weight", "model.layers.0.input_layernorm.weight"}) {
    const Moments moments = MomentsOf(Make(1, GetParam(), 1, name, {4096}));
    EXPECT_NEAR(moments.mean, 1, 0.01) << name;
    EXPECT_NEAR(moments.deviation, 0.05, 0.005) << name;
  }
  const Moments bias = MomentsOf(Make(1, GetParam(), 1, "q_proj.bias", {4096}));
  EXPECT_NEAR(bias.mean, 0, 0.002);
  EXPECT_NEAR(bias.deviation, 0.02, 0.002);
}

TEST_P(EveryDType, ValuesFollowFromSeedAndNameOnly) {
  const Shape shape = {1001, 1023};  // an odd number of elements: the last word is cut
  const std::vector<float> values = Make(1, GetParam(), 1, "w", shape);
  EXPECT_EQ(values, Make(1, GetParam(), 5, "w", shape));
  EXPECT_NE(values, Make(2, GetParam(), 1, "w", shape));
  EXPECT_NE(values, Make(1, GetParam(), 1, "v", shape));

  NoProgress progress;
  DummyWeights weights(1, GetParam(), progress, 2);
  weights.Require("other", {77});
  const TensorView first = weights.Require("w", shape);
  EXPECT_EQ(Floats(first), values);
  EXPECT_EQ(weights.Require("w", shape).bytes.data(), first.bytes.data());  // made once
  weights.Release(first);
  EXPECT_EQ(Floats(weights.Require("w", shape)), values);  // made again
}

TEST_P(EveryDType, BlocksAndNeighboursAreUnrelated) {
  // 12 MiB: several blocks. The correlation of n independent pairs has a deviation of 1/sqrt(n) = 0.0007 or
  // less.
  const std::vector<float> values = Make(7, GetParam(), 2, "w", {3072, 1024});
  const size_t block = kHugePageBytes / DTypeBytes(GetParam());
  for (const size_t distance : {size_t{1}, size_t{2}, size_t{1024}, block}) {
    double sum = 0;
    for (size_t i = distance; i < values.size(); ++i) sum += double{values[i]} * double{values[i - distance]};
    const double variance = 1.0 / 1024;
    EXPECT_NEAR(sum / static_cast<double>(values.size() - distance) / variance, 0, 0.004) << distance;
  }
}

TEST(DummyWeights, ValuesAreTheSameOnEveryMachine) {
  // First and last of a tensor, whatever compiler and vector unit made it: benchmarks elsewhere see these
  // weights.
  const std::vector<float> values = Make(42, DType::kF32, 2, "model.embed_tokens.weight", {1024, 1024});
  EXPECT_EQ(values.front(), 0x1.16a684p-5F);
  EXPECT_EQ(values.back(), -0x1.4d96c4p-5F);
}

TEST(DummyWeights, MakesEmptyTensorsAndManySmallOnes) {
  NoProgress progress;
  DummyWeights weights(1, DType::kBF16, progress, 2);
  EXPECT_TRUE(weights.Require("empty", {0, 8}).bytes.empty());
  for (int i = 0; i < 5000; ++i) weights.Require(std::to_string(i), {3, 33});
  EXPECT_EQ(weights.Require("4999", {3, 33}).bytes.size(), 198u);
  EXPECT_FALSE(weights.Has("4999"));
  EXPECT_EQ(weights.Find("4999"), nullptr);
}

TEST(DummyWeights, ReportsTheBytesItMakes) {
  class Counting final : public Progress {
   public:
    void Start(std::string_view, uint64_t) override {}
    void Advance(uint64_t bytes) override { done += bytes; }
    void Finish() override {}
    std::atomic<uint64_t> done = 0;
  };
  Counting progress;
  DummyWeights weights(1, DType::kF16, progress, 3);
  weights.Require("w", {3000, 1001});
  weights.Require("w", {3000, 1001});
  EXPECT_EQ(progress.done, 3000u * 1001 * 2);
}

TEST(DummyWeights, WhatDoesNotFitIsAnError) {
  NoProgress progress;
  DummyWeights weights(1, DType::kBF16, progress, 2);
  const std::string message = ErrorOf([&] { weights.Require("huge", {int64_t{1} << 30, int64_t{1} << 20}); });
  EXPECT_TRUE(message.starts_with("dummy weights: tensor huge: expected 2048.0 TiB of free memory, got "))
      << message;
}

}  // namespace
}  // namespace fiddler
