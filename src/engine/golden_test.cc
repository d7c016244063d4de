// The whole model against Hugging Face transformers (tests/oracle/README.md): every family, every set of
// kernels, prefill in one piece, in chunks and token by token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "engine/host_forward.h"
#include "engine/test_models.h"
#include "io/safetensors.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

// Logits of a few units, float32 on both sides, sums in another order. The contract's bound (DESIGN.md
// section 7).
constexpr float kLogitTolerance = 1e-4f;
constexpr float kRouterWeightTolerance = 1e-5f;

const fs::path kGoldenDir = fs::path(FIDDLER_SOURCE_DIR) / "tests/oracle/golden";

template <typename T>
std::vector<T> ReadTensor(const SafetensorsFile& file, std::string_view name) {
  const TensorView* tensor = file.Find(name);
  if (tensor == nullptr || tensor->bytes.size() % sizeof(T) != 0) throw Error("golden without {}", name);
  std::vector<T> values(tensor->bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

struct Golden {
  std::vector<int32_t> input_ids;
  std::vector<float> logits;  // [tokens, vocab]
  std::vector<int32_t> router_ids;
  std::vector<float> router_weights;
  std::vector<int32_t> greedy_ids;

  explicit Golden(const fs::path& dir) {
    const SafetensorsFile file = SafetensorsFile::Open(dir / "golden.safetensors");
    const auto narrow = [&](std::string_view name) {
      const std::vector<int64_t> wide = ReadTensor<int64_t>(file, name);
      return std::vector<int32_t>(wide.begin(), wide.end());
    };
    input_ids = narrow("input_ids");
    greedy_ids = narrow("greedy_ids");
    logits = ReadTensor<float>(file, "logits");
    router_ids = ReadTensor<int32_t>(file, "router_ids");
    router_weights = ReadTensor<float>(file, "router_weights");
  }
};

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

// Infinite where either side is not finite or the sizes differ.
float MaxDifference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    if (!std::isfinite(difference)) return INFINITY;
    largest = std::max(largest, difference);
  }
  return largest;
}

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

// RoPE that stretches with every call ("dynamic"): its result depends on how a prompt is cut.
constexpr const char* kRefused = "mixtral-dynamic";

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kGoldenDir)) {
    if (entry.path().filename() != kRefused) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
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
