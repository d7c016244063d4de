// The whole model against Hugging Face transformers (tests/oracle/README.md): every family, every set of
// kernels, prefill in one piece, in chunks and token by token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "engine/golden_testing.h"
#include "engine/host_forward.h"
#include "engine/test_models.h"
#include "io/safetensors.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

constexpr float kRouterWeightTolerance = 1e-5f;

// One sequence run through a model, with a block table that is not in order.
class Runner {
 public:
  Runner(const PackedModel& model, const CpuKernels& kernels, int num_threads, int64_t positions,
         Arithmetic arithmetic = Arithmetic::kExact)
      : pool_(num_threads, DiscoverTopology()),
        forward_(model, kernels, pool_,
                 {.batch_tokens = 128,
                  .positions = positions,
                  .kv_blocks = static_cast<int32_t>(KvCache::BlocksFor(positions)) + 3,
                  .logit_rows = 128,
                  .arithmetic = arithmetic}) {
    for (int64_t block = KvCache::BlocksFor(positions) + 2; block >= 3; --block)
      table_.push_back(static_cast<BlockId>(block));
    forward_.Observe([this](const Routing& routing) { routings_.push_back(Copy(routing)); });
  }

  // Logits of every token, in pieces of `chunk` tokens.
  std::vector<float> Run(std::span<const int32_t> tokens, int64_t chunk) {
    std::vector<float> logits;
    while (!tokens.empty()) {
      const size_t count = std::min(tokens.size(), static_cast<size_t>(chunk));
      const BatchEntry entry = {
          .tokens = tokens.first(count), .first_position = position_, .block_table = table_};
      forward_.Run({&entry, 1});
      std::vector<int32_t> rows(count);
      std::iota(rows.begin(), rows.end(), 0);
      const std::span<float> part = forward_.Logits(rows);
      logits.insert(logits.end(), part.begin(), part.end());
      tokens = tokens.subspan(count);
      position_ += static_cast<int64_t>(count);
    }
    return logits;
  }

  struct LayerRouting {
    std::vector<int32_t> experts;
    std::vector<float> weights;
  };
  const std::vector<LayerRouting>& routings() const { return routings_; }

 private:
  static LayerRouting Copy(const Routing& routing) {
    return {{routing.experts.begin(), routing.experts.end()},
            {routing.weights.begin(), routing.weights.end()}};
  }

  ThreadPool pool_;
  HostForward forward_;
  std::vector<BlockId> table_;
  std::vector<LayerRouting> routings_;
  int64_t position_ = 0;
};

TEST(MaxDifferenceTest, NothingHidesANan) {
  const std::vector<float> golden = {1, 2, 3};
  EXPECT_EQ(MaxDifference(golden, std::vector<float>{1, 2.5f, 3}), 0.5f);
  for (size_t i = 0; i < golden.size(); ++i) {
    std::vector<float> broken = golden;
    broken[i] = NAN;
    EXPECT_EQ(MaxDifference(broken, golden), INFINITY);
  }
  EXPECT_EQ(MaxDifference({}, golden), INFINITY);
}

int32_t ArgMax(std::span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  int64_t tokens() const { return static_cast<int64_t>(golden_.input_ids.size()); }
  int64_t positions() const { return tokens() + static_cast<int64_t>(golden_.greedy_ids.size()); }

  const fs::path dir_ = kGoldenDir / GetParam();
  const Golden golden_{dir_};
  const PackedModel model_ = LoadPacked(dir_ / "model");
};

TEST_P(GoldenTest, LogitsInOnePieceInChunksAndTokenByToken) {
  for (const CpuKernels* kernels : SupportedKernels()) {
    for (int64_t chunk : {tokens(), int64_t{7}, int64_t{1}}) {
      Runner runner(model_, *kernels, 2, positions());
      const std::vector<float> logits = runner.Run(golden_.input_ids, chunk);
      EXPECT_LE(MaxDifference(logits, golden_.logits), kLogitTolerance)
          << kernels->isa << ", chunks of " << chunk;
    }
  }
}

double Rms(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

// Activations, keys and values rounded to bf16: half a unit of 8 bits each, 0.2%, which adds up over a few
// layers. The median token: where rounding lets a router choose another expert, a token is far off.
TEST_P(GoldenTest, FastArithmeticIsClose) {
  const auto vocab = static_cast<size_t>(model_.spec.vocab_size);
  for (const CpuKernels* kernels : SupportedKernels()) {
    Runner whole(model_, *kernels, 2, positions(), Arithmetic::kFast);
    std::vector<float> logits = whole.Run(golden_.input_ids, tokens());
    Runner pieces(model_, *kernels, 1, positions(), Arithmetic::kFast);
    EXPECT_EQ(pieces.Run(golden_.input_ids, 7), logits) << kernels->isa;
    std::vector<double> errors;
    for (size_t begin = 0; begin < logits.size(); begin += vocab) {
      const std::span<const float> want = std::span(golden_.logits).subspan(begin, vocab);
      const std::span<float> difference = std::span(logits).subspan(begin, vocab);
      for (size_t i = 0; i < vocab; ++i) difference[i] -= want[i];
      errors.push_back(Rms(difference) / Rms(want));
    }
    std::sort(errors.begin(), errors.end());
    EXPECT_LT(errors[errors.size() / 2], 0.01) << kernels->isa;
    EXPECT_LT(errors[errors.size() * 3 / 4], 0.02) << kernels->isa;
  }
}

TEST_P(GoldenTest, RouterChoices) {
  for (const CpuKernels* kernels : SupportedKernels()) {
    Runner runner(model_, *kernels, 1, positions());
    runner.Run(golden_.input_ids, tokens());
    std::vector<int32_t> experts;
    std::vector<float> weights;
    for (const Runner::LayerRouting& layer : runner.routings()) {
      experts.insert(experts.end(), layer.experts.begin(), layer.experts.end());
      weights.insert(weights.end(), layer.weights.begin(), layer.weights.end());
    }
    EXPECT_EQ(experts, golden_.router_ids) << kernels->isa;
    EXPECT_LE(MaxDifference(weights, golden_.router_weights), kRouterWeightTolerance) << kernels->isa;
  }
}

TEST_P(GoldenTest, GreedyContinuation) {
  for (const CpuKernels* kernels : SupportedKernels()) {
    Runner runner(model_, *kernels, 2, positions());
    const auto vocab = static_cast<size_t>(model_.spec.vocab_size);
    std::vector<float> logits = runner.Run(golden_.input_ids, tokens());
    std::vector<int32_t> continuation;
    while (continuation.size() < golden_.greedy_ids.size()) {
      continuation.push_back(ArgMax(std::span(logits).last(vocab)));
      logits = runner.Run({&continuation.back(), 1}, 1);
    }
    EXPECT_EQ(continuation, golden_.greedy_ids) << kernels->isa;
  }
}

// Not only close: the same bits, whatever the number of threads.
TEST_P(GoldenTest, ThreadsDoNotChangeTheResult) {
  Runner one(model_, BestKernels(), 1, positions());
  Runner three(model_, BestKernels(), 3, positions());
  EXPECT_EQ(one.Run(golden_.input_ids, tokens()), three.Run(golden_.input_ids, tokens()));
}

TEST(GoldenConfigTest, RefusedByName) {
  try {
    ReadModelConfig((kGoldenDir / kRefused / "model").string());
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what())
                  .find("rope_type: expected one of default, linear, llama3, yarn, got \"dynamic\""),
              std::string::npos)
        << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Transformers, GoldenTest, testing::ValuesIn(GoldenNames()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace fiddler
