#include "sim/virtual_run.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error_testing.h"
#include "experts/policy.h"

namespace fiddler {
namespace {

// Rates that make times easy: a slice of 1 MB takes the CPU 1 ms, the link 2 ms, the GPU 0.1 ms.
HardwareProfile SimpleHardware() {
  return {.name = "simple",
          .cpu_read_gbps = 1,
          .dram_gbps = 1e6,
          .cpu_gflops = 1e9,
          .ram_bytes = 1,
          .gpu_memory_bytes = 1,
          .gpu_memory_gbps = 10,
          .gpu_gflops = 1e9,
          .link_gbps = 0.5};
}

SimulatedModel SimpleModel(int64_t layers, bool dense_first = false) {
  SimulatedModel model;
  model.layers.assign(static_cast<size_t>(layers), {.is_moe = true, .dense_bytes = 1e6, .dense_flops = 1});
  if (dense_first) model.layers.front().is_moe = false;
  model.num_experts = 4;
  model.top_k = 1;
  model.num_slices = 10;
  model.slice = {.bytes = 1e6, .flops_per_token = 1};
  model.head_bytes = 5e6;
  model.head_flops = 1;
  return model;
}

// Every token of every layer chooses the expert named.
std::unique_ptr<RoutingTrace> Choices(int64_t layers, const std::vector<uint16_t>& experts) {
  auto trace =
      std::make_unique<RoutingTrace>(RoutingGeometry{.num_layers = layers, .num_experts = 4, .top_k = 1});
  for (const uint16_t expert : experts)
    trace->AddStep(1, std::vector<uint16_t>(static_cast<size_t>(layers), expert));
  return trace;
}

struct TestRun {
  std::string policy = "cpu-experts";
  int64_t slots = 0;
  int64_t layers = 1;
  std::vector<uint16_t> experts;
  VirtualScenario scenario;
  HardwareProfile hardware = SimpleHardware();
};

VirtualResult RunTrace(const TestRun& run) {
  const SimulatedModel model = SimpleModel(run.layers);
  const std::unique_ptr<RoutingTrace> trace = Choices(run.layers, run.experts);
  const std::unique_ptr<TokenRouting> routing = ReplayRouting(*trace);
  return RunVirtually(model, run.hardware, run.policy, run.slots, *routing, run.scenario);
}

TEST(VirtualRunTest, AddsUpLayersHeadAndTokens) {
  const VirtualResult result = RunTrace(
      {.layers = 3, .experts = {0, 0, 0, 0}, .scenario = {.prompt_tokens = 2, .generated_tokens = 3}});
  // A layer: 0.1 ms of dense weights and an expert of 10 ms on the CPU; the head 0.5 ms.
  EXPECT_NEAR(result.ttft_seconds, 3 * 10.1e-3 + 0.5e-3, 1e-12);
  EXPECT_EQ(result.prompt.steps, 1);
  EXPECT_EQ(result.generation.steps, 2);  // the first token came with the prompt
  EXPECT_NEAR(result.generation.seconds, 2 * (3 * 10.1e-3 + 0.5e-3), 1e-12);
  EXPECT_NEAR(result.generation.busy.cpu, 2 * 3 * 10e-3, 1e-12);
  EXPECT_NEAR(result.generation.busy.gpu, 2 * (3 * 0.1e-3 + 0.5e-3), 1e-12);
  EXPECT_NEAR(result.generation.cpu_bytes, 2 * 3 * 10e6, 1);
  EXPECT_NEAR(result.generation.gpu_bytes, 2 * (3 * 1e6 + 5e6), 1);
}

TEST(VirtualRunTest, PromptsComeInChunksAndOnlyTheLastNeedsLogits) {
  const VirtualResult result =
      RunTrace({.experts = std::vector<uint16_t>(7),
                .scenario = {.prompt_tokens = 7, .generated_tokens = 0, .chunk_tokens = 3}});
  EXPECT_EQ(result.prompt.steps, 3);
  EXPECT_NEAR(result.prompt.seconds, 3 * 10.1e-3 + 0.5e-3, 1e-12);
  EXPECT_EQ(result.generation.steps, 0);
}

TEST(VirtualRunTest, WhatWasFetchedStays) {
  // Expert 1 is missed once, 10 copies of 2 ms and the last on the GPU; then it is there.
  const VirtualResult result = RunTrace({.policy = "expert-cache",
                                         .slots = 10,
                                         .experts = {1, 1, 1, 2},
                                         .scenario = {.prompt_tokens = 1, .generated_tokens = 4}});
  EXPECT_NEAR(result.prompt.seconds, 0.1e-3 + 20.1e-3 + 0.5e-3, 1e-12);
  EXPECT_NEAR(result.generation.seconds, 3 * 0.6e-3 + 2 * 1e-3 + 20.1e-3, 1e-12);
  EXPECT_EQ(result.prompt.hits, 0);
  EXPECT_EQ(result.generation.hits, 2);
  EXPECT_EQ(result.generation.accesses, 3);
  EXPECT_NEAR(result.generation.link_bytes, 10e6, 1);
}

// Experts 1 and 2 come in one step, with room for one: the second may not take the first one's slots.
TEST(VirtualRunTest, WhatAStepNeedsIsNotEvictedInIt) {
  const VirtualResult result = RunTrace({.policy = "expert-cache",
                                         .slots = 10,
                                         .experts = {1, 2, 1},
                                         .scenario = {.prompt_tokens = 2, .generated_tokens = 2}});
  EXPECT_EQ(result.generation.hits, 1);
}

TEST(VirtualRunTest, WithoutOverlapTimesAddUp) {
  TestRun run;
  run.policy = "balanced";
  run.experts = {0, 0};
  run.scenario = {.prompt_tokens = 2, .generated_tokens = 0, .overlap = false};
  const VirtualResult serial = RunTrace(run);
  run.scenario.overlap = true;
  const VirtualResult together = RunTrace(run);
  const VirtualPhase::Busy& busy = serial.prompt.busy;
  EXPECT_NEAR(serial.prompt.seconds, busy.cpu + busy.link + busy.gpu, 1e-12);
  EXPECT_NEAR(busy.cpu, 7e-3, 1e-12);  // 3 of 10 slices cross the link meanwhile
  EXPECT_NEAR(together.prompt.seconds, 7e-3 + 0.6e-3, 1e-12);
}

TEST(VirtualRunTest, ABeamIsOnePromptAndABatchIsMany) {
  TestRun run;
  run.experts = std::vector<uint16_t>(100);
  run.scenario = {.prompt_tokens = 2, .generated_tokens = 2, .sequences = 3, .is_beam = true};
  EXPECT_EQ(RunTrace(run).prompt.steps, 1);
  EXPECT_EQ(RunTrace(run).generation.accesses, 1);  // three tokens, one expert
  run.scenario.is_beam = false;
  EXPECT_EQ(RunTrace(run).prompt.steps, 3);
}

TEST(VirtualRunTest, ATraceThatEndsIsAnError) {
  EXPECT_EQ(ErrorOf([] { RunTrace({.experts = {0}, .scenario = {.prompt_tokens = 2}}); }),
            "trace: expected more tokens than its 1: the scenario has --prompt + --gen of each sequence");
}

TEST(VirtualRunTest, WithoutAGpuEveryPolicyTakesAsLong) {
  HardwareProfile hardware = SimpleHardware();
  hardware.gpu_memory_bytes = 0;
  for (const std::string_view policy : PolicyNames()) {
    const VirtualResult result = RunTrace({.policy = std::string(policy),
                                           .experts = {0, 0},
                                           .scenario = {.prompt_tokens = 1, .generated_tokens = 2},
                                           .hardware = hardware});
    EXPECT_NEAR(result.seconds(), 2 * (1e-3 + 10e-3 + 5e-3), 1e-12) << policy;
    EXPECT_NEAR(result.ceiling_seconds(), result.seconds(), 1e-12);
  }
}

TEST(VirtualRunTest, DenseLayersHaveNoExperts) {
  const SimulatedModel model = SimpleModel(2, /*dense_first=*/true);
  const std::unique_ptr<RoutingTrace> trace = Choices(1, {0});
  const std::unique_ptr<TokenRouting> routing = ReplayRouting(*trace);
  const VirtualResult result = RunVirtually(model, SimpleHardware(), "balanced", 40, *routing,
                                            {.prompt_tokens = 1, .generated_tokens = 0});
  EXPECT_EQ(result.prompt.accesses, 1);
  EXPECT_EQ(result.prompt.hits, 1);  // all slots are the other layer's
}

// As the paper's models and machines: the shapes of Mixtral and Qwen3 cut to few layers.
struct Shape {
  const char* routing;
  int64_t slices;
  double slice_bytes;
  double resident;  // share of the slices
  // What the ceiling cuts at will comes in whole slices: 3 that are missing of 32 cannot be shared exactly.
  double percent_of_ceiling;
};

VirtualResult RunShape(const Shape& shape, std::string_view hardware, std::string_view policy,
                       const VirtualScenario& scenario, uint64_t seed) {
  const RoutingStatistics& statistics = *FindPublishedRouting(shape.routing);
  SimulatedModel model;
  model.layers.assign(4, {.is_moe = true, .dense_bytes = 8e7, .dense_flops = 8e7});
  model.num_experts = statistics.num_experts;
  model.top_k = statistics.top_k;
  model.num_slices = shape.slices;
  model.slice = {.bytes = shape.slice_bytes, .flops_per_token = shape.slice_bytes};
  const auto slots =
      static_cast<int64_t>(shape.resident * static_cast<double>(4 * statistics.num_experts * shape.slices));
  const std::unique_ptr<TokenRouting> routing =
      MakeUpRouting(statistics, 4, scenario.is_beam ? 1 : scenario.sequences, seed);
  return RunVirtually(model, FindHardware(hardware), policy, slots, *routing, scenario);
}

// The claims of docs/simulated.md on short traces.
TEST(VirtualRunTest, BalancedIsNearItsCeilingAndBeatsEveryOtherPolicy) {
  for (const Shape& shape :
       {Shape{"mixtral-8x7b", 112, 3.1e6, 0.25, 97}, Shape{"qwen3-30b-a3b", 4, 2.4e6, 0.3, 93}}) {
    for (const char* hardware : {"rtx6000-xeon6126", "rtx4090-ddr5", "h100-16vcpu", "l4-8ch"}) {
      for (const VirtualScenario& scenario :
           {VirtualScenario{.prompt_tokens = 32, .generated_tokens = 64},
            VirtualScenario{.prompt_tokens = 512, .generated_tokens = 0, .chunk_tokens = 256},
            VirtualScenario{.prompt_tokens = 32, .generated_tokens = 16, .sequences = 8, .is_beam = true},
            VirtualScenario{.prompt_tokens = 32, .generated_tokens = 16, .sequences = 4}}) {
        SCOPED_TRACE(testing::Message() << shape.routing << " on " << hardware << ", "
                                        << scenario.prompt_tokens << " tokens, " << scenario.sequences);
        const VirtualResult balanced = RunShape(shape, hardware, "balanced", scenario, 1);
        const double percent = 100 * balanced.ceiling_seconds() / balanced.seconds();
        EXPECT_GE(percent, shape.percent_of_ceiling);
        EXPECT_LE(percent, 100.001);
        for (const std::string_view policy : PolicyNames()) {
          const VirtualResult other = RunShape(shape, hardware, policy, scenario, 1);
          EXPECT_LE(balanced.seconds(), 1.01 * other.seconds()) << policy;
          EXPECT_LE(other.ceiling_seconds(), other.seconds() * (1 + 1e-9)) << policy;
        }
      }
    }
  }
}

TEST(VirtualRunTest, TheSameSeedIsTheSameRun) {
  const Shape shape = {"mixtral-8x7b", 112, 3.1e6, 0.25, 0};
  const VirtualScenario scenario = {.prompt_tokens = 16, .generated_tokens = 16};
  const double first = RunShape(shape, "rtx4090-ddr5", "balanced", scenario, 1).seconds();
  EXPECT_EQ(RunShape(shape, "rtx4090-ddr5", "balanced", scenario, 1).seconds(), first);
  EXPECT_NE(RunShape(shape, "rtx4090-ddr5", "balanced", scenario, 2).seconds(), first);
}

}  // namespace
}  // namespace fiddler
