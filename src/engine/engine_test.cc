#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/rng.h"
#include "engine/test_models.h"
#include "io/safetensors.h"
#include "io/test_files.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

fs::path GoldenDir(std::string_view name) {
  return fs::path(FIDDLER_SOURCE_DIR) / "tests/oracle/golden" / name;
}

std::vector<int32_t> GoldenIds(std::string_view golden, std::string_view tensor_name) {
  const SafetensorsFile file = SafetensorsFile::Open(GoldenDir(golden) / "golden.safetensors");
  const TensorView* tensor = file.Find(tensor_name);
  const auto* ids = reinterpret_cast<const int64_t*>(tensor->bytes.data());
  return {ids, ids + tensor->bytes.size() / sizeof(int64_t)};
}

struct Output {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> finished;
};

// Steps until nothing is left; every event belongs to a sequence that has not finished.
std::map<SequenceId, Output> Finish(Engine& engine, std::map<SequenceId, Output> outputs = {}) {
  for (int step = 0; !engine.idle(); ++step) {
    if (step == 10'000) {
      ADD_FAILURE() << "requests that never end";
      break;
    }
    for (const TokenEvent& event : engine.Step()) {
      Output& output = outputs[event.id];
      EXPECT_FALSE(output.finished) << "an event after the last one";
      output.tokens.push_back(event.token);
      output.finished = event.finished;
    }
  }
  return outputs;
}

// One model, threads to run it, requests to try.
class EngineTest : public testing::Test {
 protected:
  static constexpr int64_t kPositions = 96;

  Engine MakeEngine(int64_t max_sequences, int64_t max_batch_tokens) {
    return Engine(
        model_, BestKernels(), pool_,
        {.max_positions = kPositions, .max_sequences = max_sequences, .max_batch_tokens = max_batch_tokens});
  }

  Output RunAlone(const Request& request) {
    Engine engine = MakeEngine(1, kPositions);
    const SequenceId id = engine.Add(request);
    return Finish(engine)[id];
  }

  // Prompts of 1 to 60 tokens, half of them sampled.
  Request RandomRequest(Rng& rng) const {
    Request request;
    const auto vocab_size = static_cast<uint64_t>(model_.spec.vocab_size);
    for (uint64_t length = 1 + rng.NextBits() % 60; length > 0; --length) {
      request.prompt.push_back(static_cast<int32_t>(rng.NextBits() % vocab_size));
    }
    request.max_tokens = static_cast<int64_t>(1 + rng.NextBits() % 30);
    if (rng.NextUnit() < 0.5) {
      request.sampling = {.temperature = 1.5f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1.1f};
      request.sampling.seed = rng.NextBits();
    }
    return request;
  }

  PackedModel model_ = LoadPacked(GoldenModel("mixtral-window-bf16"));
  ThreadPool pool_{2, DiscoverTopology()};
};

// Two families that differ in everything: windows and renormalised routing; shared experts, dense layers,
// biases.
class EngineBatchingTest : public EngineTest, public testing::WithParamInterface<std::string_view> {
 protected:
  void SetUp() override { model_ = LoadPacked(GoldenModel(GetParam())); }
};

TEST_P(EngineBatchingTest, TogetherAsAlone) {
  Rng rng(1);
  std::vector<Request> requests;
  std::vector<Output> alone;
  for (int i = 0; i < 16; ++i) {
    requests.push_back(RandomRequest(rng));
    alone.push_back(RunAlone(requests.back()));
    EXPECT_EQ(static_cast<int64_t>(alone.back().tokens.size()), requests.back().max_tokens);
  }
  // A whole prompt in a step, chunks of prompts, and hardly more than one token for everyone.
  for (const auto& [max_sequences, max_batch_tokens] :
       {std::pair{16, 512}, std::pair{5, 64}, std::pair{3, 7}, std::pair{1, 1}, std::pair{4, 1}}) {
    Engine engine = MakeEngine(max_sequences, max_batch_tokens);
    std::map<SequenceId, size_t> request_of;
    for (size_t i = 0; i < requests.size(); ++i) request_of[engine.Add(requests[i])] = i;
    for (const auto& [id, output] : Finish(engine)) {
      EXPECT_EQ(output.tokens, alone[request_of[id]].tokens)
          << max_sequences << " sequences, " << max_batch_tokens << " tokens a step, request "
          << request_of[id];
      EXPECT_EQ(output.finished, FinishReason::kLength);
      request_of.erase(id);
    }
    EXPECT_TRUE(request_of.empty()) << "a request without output";
  }
}

TEST_P(EngineBatchingTest, WhoComesAndGoesDoesNotMatterToTheOthers) {
  Rng rng(2);
  Engine engine = MakeEngine(4, 16);
  std::map<SequenceId, Request> requests;
  std::map<SequenceId, Output> outputs;
  std::map<SequenceId, bool> cancelled;
  for (int step = 0; step < 150; ++step) {
    if (requests.size() < 16 && rng.NextUnit() < 0.3) {
      Request request = RandomRequest(rng);
      requests.emplace(engine.Add(request), request);
    }
    if (!requests.empty() && rng.NextUnit() < 0.08) {  // running, waiting or finished long ago
      const SequenceId id =
          std::next(requests.begin(), static_cast<std::ptrdiff_t>(rng.NextBits() % requests.size()))->first;
      const bool was_there = !outputs[id].finished && !cancelled[id];
      EXPECT_EQ(engine.Cancel(id), was_there);
      cancelled[id] |= was_there;
    }
    for (const TokenEvent& event : engine.Step()) {
      EXPECT_FALSE(cancelled[event.id]) << "an event after Cancel";
      outputs[event.id].tokens.push_back(event.token);
      outputs[event.id].finished = event.finished;
    }
  }
  outputs = Finish(engine, std::move(outputs));
  EXPECT_EQ(requests.size(), 16);
  int num_cancelled = 0;
  for (const auto& [id, request] : requests) {
    std::vector<int32_t> expected = RunAlone(request).tokens;
    if (cancelled[id]) {
      ++num_cancelled;
      ASSERT_LE(outputs[id].tokens.size(), expected.size());
      expected.resize(outputs[id].tokens.size());
    }
    EXPECT_EQ(outputs[id].tokens, expected) << "request " << id;
    EXPECT_EQ(outputs[id].finished.has_value(), !cancelled[id]);
  }
  EXPECT_GT(num_cancelled, 1);
}

// The engine's own part of being right (golden_test.cc looks at the forward pass): chunks, rows, positions.
TEST_P(EngineBatchingTest, GreedyAsTransformers) {
  const std::vector<int32_t> prompt = GoldenIds(GetParam(), "input_ids");
  const std::vector<int32_t> expected = GoldenIds(GetParam(), "greedy_ids");
  for (int64_t max_batch_tokens : {128, 9}) {
    Engine engine(model_, BestKernels(), pool_,
                  {.max_positions = 256, .max_sequences = 2, .max_batch_tokens = max_batch_tokens});
    const Request request = {.prompt = prompt, .max_tokens = static_cast<int64_t>(expected.size())};
    engine.Add(request);
    engine.Add(request);
    for (const auto& [id, output] : Finish(engine)) EXPECT_EQ(output.tokens, expected) << max_batch_tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineBatchingTest, testing::Values("mixtral-window-bf16", "qwen2-base"),
                         [](const auto& test) { return test.index == 0 ? "Mixtral" : "Qwen2"; });

TEST_F(EngineTest, ThreadsAndKernelsOfOneSetGiveTheSameTokens) {
  Rng rng(3);
  const Request request = RandomRequest(rng);
  for (const CpuKernels* kernels : SupportedKernels()) {
    std::vector<std::vector<int32_t>> outputs;
    for (int threads : {1, 2, 5}) {
      ThreadPool pool(threads, DiscoverTopology());
      Engine engine(model_, *kernels, pool, {.max_positions = kPositions});
      const SequenceId id = engine.Add(request);
      outputs.push_back(Finish(engine)[id].tokens);
    }
    EXPECT_EQ(outputs[0], outputs[1]) << kernels->isa;
    EXPECT_EQ(outputs[0], outputs[2]) << kernels->isa;
  }
}

TEST_F(EngineTest, StopTokensEndASequenceAndAreItsLast) {
  const Request request = {.prompt = {5, 6, 7}, .max_tokens = 20};
  const std::vector<int32_t> all = RunAlone(request).tokens;
  ASSERT_EQ(all.size(), 20);
  for (size_t i : {size_t{0}, size_t{4}, size_t{19}}) {
    Request stopping = request;
    stopping.stop_tokens = {-1, all[i], 1000000};
    const Output output = RunAlone(stopping);
    const auto first = std::find(all.begin(), all.end(), all[i]);
    EXPECT_EQ(output.tokens, std::vector<int32_t>(all.begin(), first + 1));
    EXPECT_EQ(output.finished, FinishReason::kStop);
  }
}

TEST_F(EngineTest, ExactlyMaxTokens) {
  for (int64_t max_tokens : {int64_t{1}, int64_t{2}, kPositions - 3}) {
    const Output output = RunAlone({.prompt = {1, 2, 3}, .max_tokens = max_tokens});
    EXPECT_EQ(static_cast<int64_t>(output.tokens.size()), max_tokens);
    EXPECT_EQ(output.finished, FinishReason::kLength);
  }
}

TEST_F(EngineTest, RequestsThatCanNeverRunAreRefused) {
  Engine engine = MakeEngine(1, 8);
  const auto error_of = [&](const Request& request) { return ErrorOf([&] { engine.Add(request); }); };
  const auto vocab_size = static_cast<int32_t>(model_.spec.vocab_size);
  const std::vector<int32_t> full(kPositions, 1);
  EXPECT_EQ(error_of({.prompt = {}}), "prompt: expected at least one token, got none");
  EXPECT_EQ(error_of({.prompt = {1}, .max_tokens = 0}), "max_tokens: expected at least 1, got 0");
  EXPECT_EQ(error_of({.prompt = {1}, .max_tokens = -5}), "max_tokens: expected at least 1, got -5");
  EXPECT_EQ(error_of({.prompt = full, .max_tokens = 1}),
            "prompt and max_tokens: expected at most 96 tokens together, got 96 + 1");
  EXPECT_EQ(error_of({.prompt = {1}, .max_tokens = INT64_MAX}),
            "prompt and max_tokens: expected at most 96 tokens together, got 1 + 9223372036854775807");
  EXPECT_EQ(error_of({.prompt = {1, -1}}), "prompt: expected token ids below 131, got -1");
  EXPECT_EQ(error_of({.prompt = {vocab_size}}), "prompt: expected token ids below 131, got 131");
  EXPECT_EQ(error_of({.prompt = {1}, .sampling = {.temperature = -1}}),
            "temperature: expected 0 to 100, got -1");
  EXPECT_TRUE(engine.idle());
  engine.Add({.prompt = {vocab_size - 1}, .max_tokens = kPositions - 1});  // just fits
  EXPECT_EQ(Finish(engine).size(), 1);
}

TEST_F(EngineTest, UsedAgainAfterItWasIdle) {
  Engine engine = MakeEngine(2, 8);
  const Request request = {.prompt = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, .max_tokens = 12};
  const std::vector<int32_t> expected = RunAlone(request).tokens;
  SequenceId last = -1;
  for (int round = 0; round < 3; ++round) {
    const SequenceId id = engine.Add(request);
    EXPECT_GT(id, last);  // an id names one sequence for good
    last = id;
    EXPECT_EQ(Finish(engine)[id].tokens, expected);
    EXPECT_TRUE(engine.idle());
    EXPECT_TRUE(engine.Step().empty());
    EXPECT_FALSE(engine.Cancel(id));
  }
}

TEST_F(EngineTest, OnlyAsManyRunAsThereIsRoomFor) {
  Engine engine = MakeEngine(2, 64);
  for (int i = 0; i < 5; ++i) engine.Add({.prompt = {i, i + 1}, .max_tokens = 3});
  std::vector<std::vector<SequenceId>> steps;
  while (!engine.idle() && steps.size() < 100) {
    steps.emplace_back();
    for (const TokenEvent& event : engine.Step()) steps.back().push_back(event.id);
  }
  const std::vector<std::vector<SequenceId>> expected = {{0, 1}, {0, 1}, {0, 1}, {2, 3}, {2, 3},
                                                         {2, 3}, {4},    {4},    {4}};
  EXPECT_EQ(steps, expected);
}

TEST_F(EngineTest, MoreKvCacheThanNumbersForItsBlocksIsRefused) {
  const EngineOptions options = {.max_positions = int64_t{1} << 40, .max_sequences = int64_t{1} << 40};
  const std::string error = ErrorOf([&] { Engine(model_, BestKernels(), pool_, options); });
  EXPECT_TRUE(error.starts_with("KV cache: expected at most ")) << error;
}

}  // namespace
}  // namespace fiddler
