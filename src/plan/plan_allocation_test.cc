// Planning a layer allocates nothing.
#include <gtest/gtest.h>

#include "base/counted_allocations.h"
#include "plan/planning_testing.h"

#if FIDDLER_COUNTS_ALLOCATIONS

namespace fiddler {
namespace {

TEST(PlanAllocationTest, PlanningAllocatesNothing) {
  Rng rng(6);
  LayerPlanner planner(128);
  for (const Regime& regime : Regimes()) {
    for (const int64_t experts : {2, 8, 128}) {
      const Layer layer = {.loads = RandomLoads(rng, regime, experts, 4), .cost = RandomCost(rng, regime)};
      const int64_t before = allocations;
      const LayerPlan plan = planner.Plan(layer.loads, layer.cost);
      planner.Predict(layer.loads, plan.shares, layer.cost);
      EXPECT_EQ(allocations - before, 0) << regime.name << ", " << experts << " experts";
    }
  }
  const int64_t counted = allocations;
  EXPECT_EQ(std::vector<int>(1).size(), 1);
  EXPECT_GT(allocations, counted) << "nobody counts";
}

}  // namespace
}  // namespace fiddler

#endif
