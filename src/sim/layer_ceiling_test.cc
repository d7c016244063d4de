#include "sim/layer_ceiling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "plan/planning_testing.h"

namespace fiddler {
namespace {

// The formula of the header for experts with one token each, by trying a million splits.
double OneTokenOptimum(double resident, double missing, const CostModel& cost) {
  const double cpu_slice = cost.cpu.Seconds(1);
  const double gpu_slice = cost.gpu.Seconds(1);
  double best = std::numeric_limits<double>::infinity();
  constexpr int kSteps = 2000;
  for (int i = 0; i <= kSteps; ++i) {
    const double fetched = missing * i / kSteps;
    for (const double given : {0.0, 1.0}) {
      const double from_gpu = given * resident * i / kSteps;
      const double x = given == 0 ? fetched : 0;
      const double on_cpu = missing - x + from_gpu;
      const double on_gpu = resident + x - from_gpu;
      best = std::min(best, std::max({on_cpu > 0 ? cost.cpu_start + on_cpu * cpu_slice : 0,
                                      on_gpu > 0 ? cost.gpu_start + on_gpu * gpu_slice : 0,
                                      x * cost.link_slice_seconds, (on_cpu + x) * cost.dram_slice_seconds}));
    }
  }
  return best;
}

TEST(LayerCeilingTest, OfOneTokenEachIsTheFormula) {
  Rng rng(1);
  LayerCeiling ceiling(8);
  for (int i = 0; i < 300; ++i) {
    const Regime regime = Regimes()[static_cast<size_t>(i) % Regimes().size()];
    const CostModel cost = RandomCost(rng, regime);
    std::vector<ExpertLoad> loads = RandomLoads(rng, regime, 4, 16);
    double resident = 0;
    double missing = 0;
    for (ExpertLoad& load : loads) {
      load.tokens = 1;
      resident += static_cast<double>(load.resident);
      missing += static_cast<double>(load.missing);
    }
    const double optimum = OneTokenOptimum(resident, missing, cost);
    EXPECT_LE(ceiling.Seconds(loads, cost), optimum * (1 + 1e-9)) << "layer " << i;
    EXPECT_GE(ceiling.Seconds(loads, cost), optimum * 0.995) << "layer " << i;
  }
}

// No decision is better, and the best ones come near: so the bound is neither too high nor idle.
TEST(LayerCeilingTest, NoPlanBeatsIt) {
  for (const Regime& regime : Regimes()) {
    Rng rng(2);
    LayerPlanner planner(128);
    LayerCeiling ceiling(128);
    double best = 0;
    double sum = 0;
    constexpr int kLayers = 60;
    for (int i = 0; i < kLayers; ++i) {
      const CostModel cost = RandomCost(rng, regime);
      const std::vector<ExpertLoad> loads = RandomLoads(rng, regime, 32, 8);
      const double share = ceiling.Seconds(loads, cost) / planner.Plan(loads, cost).times.seconds();
      EXPECT_LE(share, 1 + 1e-9) << regime.name << ", layer " << i;
      best = std::max(best, share);
      sum += share;
    }
    EXPECT_GT(best, 0.995) << regime.name;
    EXPECT_GT(sum / kLayers, 0.95) << regime.name;
  }
}

TEST(LayerCeilingTest, OneSideAlone) {
  LayerCeiling ceiling(2);
  CostModel cost;
  cost.cpu = {{{1, 4}}, "cpu"};
  cost.cpu_start = 1;
  const std::vector<ExpertLoad> missing = {{.tokens = 1, .missing = 2}, {.tokens = 2, .missing = 1}};
  EXPECT_EQ(ceiling.Seconds(missing, cost), 1 + 3 * 4);
  cost.has_gpu = true;
  cost.gpu = {{{1, 0.1}}, "gpu"};
  cost.gpu_start = 0.5;
  cost.link_slice_seconds = 1e9;
  const std::vector<ExpertLoad> resident = {{.tokens = 1, .resident = 2}, {.tokens = 2, .resident = 1}};
  EXPECT_DOUBLE_EQ(ceiling.Seconds(resident, cost), 0.5 + 3 * 0.1);  // no hand-over
  EXPECT_EQ(ceiling.Seconds({}, cost), 0);
}

}  // namespace
}  // namespace fiddler
