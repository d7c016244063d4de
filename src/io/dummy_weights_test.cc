#include "io/dummy_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"

namespace fiddler {
namespace {

std::vector<float> Floats(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / DTypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const std::byte* element = bytes.data() + i * DTypeBytes(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(&values[i], element, 4);
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, element, 2);
      values[i] = dtype == DType::kBF16 ? ToFloat(BF16{bits}) : ToFloat(F16{bits});
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

std::vector<std::byte> Bytes(uint64_t seed, DType dtype, const std::string& name, const Shape& shape) {
  const DummyWeights weights(seed, dtype);
  size_t elements = 1;
  for (const int64_t dimension : shape) elements *= static_cast<size_t>(dimension);
  std::vector<std::byte> bytes(elements * DTypeBytes(dtype));
  weights.Read(weights.Require(name, shape), 0, bytes);
  return bytes;
}

std::vector<float> Make(uint64_t seed, DType dtype, const std::string& name, const Shape& shape) {
  return Floats(Bytes(seed, dtype, name, shape), dtype);
}

class EveryDType : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(DummyWeights, EveryDType, testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& test) { return std::string(DTypeName(test.param)); });

TEST_P(EveryDType, MatricesKeepActivationsSane) {
  const std::vector<float> values = Make(1, GetParam(), "w", {1000, 4096});
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
    const Moments moments = MomentsOf(Make(1, GetParam(), name, {4096}));
    EXPECT_NEAR(moments.mean, 1, 0.01) << name;
    EXPECT_NEAR(moments.deviation, 0.05, 0.005) << name;
  }
  const Moments bias = MomentsOf(Make(1, GetParam(), "q_proj.bias", {4096}));
  EXPECT_NEAR(bias.mean, 0, 0.002);
  EXPECT_NEAR(bias.deviation, 0.02, 0.002);
}

TEST_P(EveryDType, ValuesFollowFromSeedAndNameOnly) {
  const Shape shape = {1001, 1023};  // an odd number of elements: the last word is cut
  const std::vector<float> values = Make(1, GetParam(), "w", shape);
  EXPECT_EQ(values, Make(1, GetParam(), "w", shape));
  EXPECT_NE(values, Make(2, GetParam(), "w", shape));
  EXPECT_NE(values, Make(1, GetParam(), "v", shape));
}

TEST_P(EveryDType, PiecesAreThoseOfTheWhole) {
  const Shape shape = {3001, 1023};  // more than a block of 2 MiB in every type
  const std::vector<std::byte> whole = Bytes(1, GetParam(), "w", shape);
  const DummyWeights weights(1, GetParam());
  const TensorInfo tensor = weights.Require("w", shape);
  Rng rng(3);
  for (int round = 0; round < 100; ++round) {
    const bool at_a_border = round % 2 == 0;
    const size_t offset = at_a_border ? (size_t{2} << 20) - rng.NextBits() % 64 : rng.NextBits() % 4'000'000;
    std::vector<std::byte> piece(rng.NextBits() % 5'000);
    weights.Read(tensor, offset, piece);
    ASSERT_EQ(std::memcmp(piece.data(), whole.data() + offset, piece.size()), 0) << offset;
  }
}

TEST_P(EveryDType, BlocksAndNeighboursAreUnrelated) {
  // 12 MiB: several blocks. The correlation of n independent pairs has a deviation of 1/sqrt(n) = 0.0007 or
  // less.
  const std::vector<float> values = Make(7, GetParam(), "w", {3072, 1024});
  const size_t block = (size_t{2} << 20) / DTypeBytes(GetParam());
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
  const std::vector<float> values = Make(42, DType::kF32, "model.embed_tokens.weight", {1024, 1024});
  EXPECT_EQ(values.front(), 0x1.16a684p-5F);
  EXPECT_EQ(values.back(), -0x1.4d96c4p-5F);
}

TEST(DummyWeights, HasOnlyWhatIsRequired) {
  const DummyWeights weights(1, DType::kBF16);
  const TensorInfo tensor = weights.Require("w", {int64_t{1} << 40, int64_t{1} << 20});  // costs nothing
  EXPECT_EQ(tensor.dtype, DType::kBF16);
  EXPECT_FALSE(weights.Has("w"));
  weights.Read(tensor, 0, {});
}

}  // namespace
}  // namespace fiddler
