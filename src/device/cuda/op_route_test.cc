#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error_testing.h"
#include "device/cuda/op_testing.h"

namespace fiddler::cuda {
namespace {

using testing::RandomFloats;

constexpr float kUntouched = -7;

struct Routing {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

struct Shape {
  int64_t tokens = 1;
  int64_t num_experts = 1;
  int64_t top_k = 1;
  bool renormalize = false;
};

Routing Routed(testing::TestDevice& device, const Shape& shape, const std::vector<float>& logits) {
  const int64_t count = shape.tokens * shape.top_k;
  const FiddlerAddress experts = device.Put(std::vector<int32_t>(static_cast<size_t>(count) + 1, -7));
  const FiddlerAddress weights = device.Put(std::vector<float>(static_cast<size_t>(count) + 1, kUntouched));
  device->Route(device.stream(), {.tokens = shape.tokens,
                                  .num_experts = shape.num_experts,
                                  .top_k = shape.top_k,
                                  .logits = device.Put(logits),
                                  .experts = experts,
                                  .weights = weights,
                                  .renormalize = shape.renormalize ? 1 : 0,
                                  .padding = 0});
  return {device.Get<int32_t>(experts, count + 1), device.Get(weights, count + 1)};
}

// Of a token's choices, in float64.
std::vector<double> Weights(const Shape& shape, const float* logits, const int32_t* experts) {
  const double largest = *std::max_element(logits, logits + shape.num_experts);
  double total = 0;
  for (int64_t e = 0; e < shape.num_experts; ++e) total += std::exp(logits[e] - largest);
  std::vector<double> weights;
  for (int64_t k = 0; k < shape.top_k; ++k) weights.push_back(std::exp(logits[experts[k]] - largest) / total);
  const double chosen = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (shape.renormalize) {
    for (double& weight : weights) weight /= chosen;
  }
  return weights;
}

TEST(CudaRouteTest, ChoosesAsTheHostDoes) {
  // A lane sums 128 probabilities at most, which come from exp (2 units in the last place on a GPU).
  constexpr double kTolerance = 1e-6;
  for (const int64_t num_experts : {1, 2, 8, 31, 32, 33, 60, 128, 160, 512, 1000, 4096}) {
    for (const int64_t most : {1, 8, 40}) {
      for (const bool ties : {false, true}) {
        const Shape shape = {.tokens = num_experts < 200 ? 6 : 1,
                             .num_experts = num_experts,
                             .top_k = std::min(most, num_experts),
                             .renormalize = (num_experts + most) % 2 == 0};
        std::vector<float> logits = RandomFloats(shape.tokens * num_experts, 5);
        for (float& logit : logits) logit = ties ? std::round(logit * 3) : logit * 8;
        testing::TestDevice cpu;
        OpDevice device({}, static_cast<uint64_t>(num_experts));
        const Routing got = Routed(device, shape, logits);
        ASSERT_EQ(got.experts, Routed(cpu, shape, logits).experts) << num_experts << ", " << shape.top_k;
        for (int64_t t = 0; t < shape.tokens; ++t) {
          const std::vector<double> weights =
              Weights(shape, logits.data() + t * num_experts, got.experts.data() + t * shape.top_k);
          for (int64_t k = 0; k < shape.top_k; ++k) {
            const double expected = weights[static_cast<size_t>(k)];
            ASSERT_NEAR(got.weights[static_cast<size_t>(t * shape.top_k + k)], expected,
                        kTolerance * expected)
                << num_experts << ", " << shape.top_k << ": " << k;
          }
        }
        ASSERT_EQ(got.weights.back(), kUntouched);
      }
    }
  }
}

// What becomes of them is not a number, but they go to experts that there are.
TEST(CudaRouteTest, NaNsChooseExpertsThatThereAre) {
  for (const float value : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const bool all : {false, true}) {
      const Shape shape = {.tokens = 2, .num_experts = 40, .top_k = 40, .renormalize = true};
      std::vector<float> logits = RandomFloats(80, 1);
      std::fill_n(logits.begin(), all ? 80 : 3, value);
      OpDevice device;
      const Routing got = Routed(device, shape, logits);
      for (auto first = got.experts.begin(); first != got.experts.end() - 1; first += 40) {
        const std::set<int32_t> experts(first, first + 40);
        EXPECT_EQ(experts.size(), 40u);
        EXPECT_EQ(*experts.begin(), 0);
        EXPECT_EQ(*experts.rbegin(), 39);
      }
    }
  }
}

TEST(CudaRouteTest, SaysWhatIsWrong) {
  const auto error = [](const Shape& shape) {
    OpDevice device;
    return ErrorOf([&] { Routed(device, shape, RandomFloats(8, 1)); });
  };
  EXPECT_TRUE(testing::Says(error({.tokens = 1, .num_experts = 8, .top_k = 9}),
                            {"route: top_k: expected 1 to 8, got 9"}));
  EXPECT_TRUE(testing::Says(error({.tokens = 1, .num_experts = 5000, .top_k = 1}),
                            {"route: num_experts: expected 1 to 4096, got 5000"}));
}

}  // namespace
}  // namespace fiddler::cuda
