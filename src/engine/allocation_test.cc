// Steady-state decoding allocates nothing.
#include <gtest/gtest.h>

#include "base/counted_allocations.h"
#include "engine/engine.h"
#include "engine/test_models.h"
#include "io/test_files.h"
#include "kernels/dispatch.h"

#if FIDDLER_COUNTS_ALLOCATIONS

namespace fiddler {
namespace {

class AllocationTest : public testing::TestWithParam<const char*> {};

TEST_P(AllocationTest, SteadyStateDecodingAllocatesNothing) {
  const PackedModel model = LoadPacked(GoldenModel(GetParam()));
  ThreadPool pool(3, DiscoverTopology());
  Engine engine(model, BestKernels(), pool, {.max_positions = 128, .max_sequences = 4});
  int64_t routed = 0;
  engine.ObserveRouting([&](const Routing& routing) { routed += routing.top_k; });
  for (int i = 0; i < 4; ++i) {
    Request request = {.prompt = {1, 2, 3, 4 + i}, .max_tokens = 100, .stop_tokens = {-1}};
    if (i % 2 == 1) {
      request.sampling = {
          .temperature = 1, .top_k = 50, .top_p = 0.9f, .min_p = 0.01f, .repetition_penalty = 1.2f};
    }
    engine.Add(std::move(request));
  }
  for (int step = 0; step < 3; ++step) engine.Step();  // the prompts; the first tokens

  const int64_t before = allocations;
  size_t events = 0;
  for (int step = 0; step < 90; ++step) events += engine.Step().size();  // across the ends of KV blocks
  EXPECT_EQ(allocations - before, 0);
  EXPECT_EQ(events, 4 * 90);
  EXPECT_GT(routed, 0);

  const int64_t counted = allocations;
  EXPECT_EQ(std::vector<int>(1).size(), 1);
  EXPECT_GT(allocations, counted) << "nobody counts";
}

// A long context, whose attention is split among the threads.
TEST_P(AllocationTest, NorDoesALongContext) {
  const PackedModel model = LoadPacked(GoldenModel(GetParam()));
  ThreadPool pool(3, DiscoverTopology());
  Engine engine(model, BestKernels(), pool, {.max_positions = 1500, .max_sequences = 1});
  engine.Add({.prompt = std::vector<int32_t>(1300, 7), .max_tokens = 100, .stop_tokens = {-1}});
  while (engine.Step().empty()) {
  }
  const int64_t before = allocations;
  for (int step = 0; step < 50; ++step) ASSERT_EQ(engine.Step().size(), 1);
  EXPECT_EQ(allocations - before, 0);
}

// Nor with experts that come from disk all the time.
TEST_P(AllocationTest, NorDoReadingExperts) {
  const Model model = OpenModel(ReadModelConfig(GoldenModel(GetParam()).string()));
  ThreadPool pool(2, DiscoverTopology());
  const TempFolder folder;
  const PackedModel packed =
      PackToDisk(model, {}, folder.path() / "experts", model.spec().moe.top_k + 1, pool);
  Engine engine(packed, BestKernels(), pool, {.max_positions = 128, .max_sequences = 2});
  for (int32_t i = 0; i < 2; ++i) {
    engine.Add({.prompt = {1, 2, 3 + i}, .max_tokens = 100, .stop_tokens = {-1}});
  }
  for (int step = 0; step < 3; ++step) engine.Step();
  const int64_t misses = packed.host_experts->traffic().misses;
  const int64_t before = allocations;
  for (int step = 0; step < 60; ++step) engine.Step();
  EXPECT_EQ(allocations - before, 0);
  EXPECT_GT(packed.host_experts->traffic().misses, misses);
}

INSTANTIATE_TEST_SUITE_P(Models, AllocationTest,
                         testing::Values("mixtral-base", "qwen2-base", "olmoe-clip-gqa"),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

}  // namespace
}  // namespace fiddler

#endif
