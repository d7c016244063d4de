// Whole models on the emulated device when it computes with CUDA kernels (device/cuda/played_device.h):
// against Hugging Face transformers, and against the host's forward pass, which golden_test.cc holds against
// it. What a GPU runs when a model runs on one, but for the CUDA runtime.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "device/cuda/played_device.h"
#include "engine/device_forward_testing.h"
#include "engine/golden_testing.h"
#include "engine/host_forward.h"

namespace fiddler::cuda {
namespace {

constexpr std::string_view kPolicies[] = {"balanced", "expert-cache"};

// `seed`: of the order of streams and of threads, and whether copies within kernels come late.
EmulatorOptions Played(ThreadPool& pool, uint64_t seed) {
  EmulatorOptions options;
  options.pool = &pool;
  options.adversary_seed = seed;
  options.make_ops = PlayedOps({.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}});
  return options;
}

// Playing a GPU takes a thousand times as long: some tokens do, which see past the first block of the cache
// and its end.
constexpr size_t kTokens = 37;

// Of tests: no dashes.
struct NameOf {
  static std::string Of(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
  }
  std::string operator()(const testing::TestParamInfo<std::string>& test) const { return Of(test.param); }
  std::string operator()(const testing::TestParamInfo<std::tuple<std::string, Quantization>>& test) const {
    const auto& [name, quantization] = test.param;
    return Of(name) + "_" + std::string(QuantizationName(quantization));
  }
};

class WholeModelTest : public testing::TestWithParam<std::string> {};

TEST_P(WholeModelTest, SameLogitsAsTransformers) {
  const Golden golden(kGoldenDir / GetParam());
  const PackedModel model = LoadPacked(kGoldenDir / GetParam() / "model");
  const auto expected = std::span(golden.logits).first(kTokens * static_cast<size_t>(model.spec.vocab_size));
  ThreadPool pool(2, DiscoverTopology());
  for (const uint64_t seed : {1, 2}) {
    const std::string_view policy = kPolicies[seed % 2];
    const std::vector<float> logits = LogitsOnDevice(model, std::span(golden.input_ids).first(kTokens),
                                                     Arithmetic::kExact, policy, pool, Played(pool, seed));
    EXPECT_LE(MaxDifference(logits, expected), kLogitTolerance) << policy;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, WholeModelTest, testing::ValuesIn(GoldenNames()), NameOf());

// For each token the largest difference of a logit; sorted.
std::vector<float> Differences(std::span<const float> a, std::span<const float> b, int64_t vocab) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<float> differences;
  for (size_t i = 0; i + static_cast<size_t>(vocab) <= a.size(); i += static_cast<size_t>(vocab)) {
    differences.push_back(
        MaxDifference(a.subspan(i, static_cast<size_t>(vocab)), b.subspan(i, static_cast<size_t>(vocab))));
  }
  std::sort(differences.begin(), differences.end());
  return differences;
}

class QuantizedModelTest : public testing::TestWithParam<std::tuple<std::string, Quantization>> {};

// The host and the device sum in another order, which moves a number by some 1e-7 of itself. Where that takes
// it over the border between two values of a rounded activation, key or weight of attention, the two part by
// a step. A token has hundreds of these, and hardly ever one so close to a border: of nine tokens in ten
// nothing is seen, and none is further off than all the rounding there is moves some token, which is what
// kFast and kExact differ by.
TEST_P(QuantizedModelTest, SameLogitsAsTheHost) {
  const auto& [name, quantization] = GetParam();
  const Golden golden(kGoldenDir / name);
  const PackedModel model = LoadPacked(kGoldenDir / name / "model", {.quantization = quantization});
  const BatchOfOne batch(std::span(golden.input_ids).first(kTokens));
  ThreadPool pool(2, DiscoverTopology());
  const auto on_host = [&](Arithmetic arithmetic) {
    HostForward host(model, BestKernels(), pool, batch.Limits(arithmetic));
    return batch.Run(host);
  };
  const auto on_device = [&](Arithmetic arithmetic, uint64_t seed) {
    return LogitsOnDevice(model, batch.tokens(), arithmetic, kPolicies[seed % 2], pool, Played(pool, seed));
  };
  const std::vector<float> exact = on_host(Arithmetic::kExact);
  const std::vector<float> fast = on_host(Arithmetic::kFast);
  EXPECT_LE(MaxDifference(on_device(Arithmetic::kExact, 1), exact), kLogitTolerance);

  const std::vector<float> rounding = Differences(fast, exact, model.spec.vocab_size);
  ASSERT_GT(rounding[kTokens / 2], 100 * kLogitTolerance);
  for (const uint64_t seed : {2, 3}) {
    const std::vector<float> off =
        Differences(on_device(Arithmetic::kFast, seed), fast, model.spec.vocab_size);
    EXPECT_LE(off[kTokens * 9 / 10], 0.01f * rounding[kTokens / 2]) << kPolicies[seed % 2];
    EXPECT_LE(off.back(), rounding.back()) << kPolicies[seed % 2];
  }
}

INSTANTIATE_TEST_SUITE_P(AsStored, QuantizedModelTest,
                         testing::Combine(testing::Values("mixtral-window-bf16", "olmoe-published-bf16",
                                                          "qwen3-published-yarn-bf16"),
                                          testing::Values(Quantization::kNone)),
                         NameOf());
INSTANTIATE_TEST_SUITE_P(Quantized, QuantizedModelTest,
                         testing::Combine(testing::Values("mixtral-base", "olmoe-clip-gqa", "qwen2-base",
                                                          "qwen3-sparse-step-f16"),
                                          testing::Values(Quantization::kInt8, Quantization::kInt4)),
                         NameOf());

// Prompts in chunks, tokens one by one from captured segments, two sequences at a time.
TEST(WholeModelScriptTest, SameLogitsAsTheHost) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng(seed);
    const PackedModel& model = ModelOf(seed % 2 == 1);
    const Script script(rng, model.spec.vocab_size);
    ThreadPool pool(2, DiscoverTopology());
    HostForward host(model, BestKernels(), pool, Limits());
    const auto slots =
        static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(NeedsOf(model).num_expert_slices + 1));
    Machine machine(model, slots, Played(pool, seed), Named(kPolicies[seed / 2 % 2]));
    DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
    EXPECT_LE(MaxDifference(script.Run(forward), script.Run(host)), kLogitTolerance) << "seed " << seed;
  }
}

}  // namespace
}  // namespace fiddler::cuda
