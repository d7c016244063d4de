// What a step decides about experts allocates nothing.
#include <gtest/gtest.h>

#include <array>

#include <vector>

#include "base/counted_allocations.h"
#include "base/rng.h"
#include "experts/policy.h"
#include "experts/residency.h"

#if FIDDLER_COUNTS_ALLOCATIONS

namespace fiddler {
namespace {

TEST(DecisionAllocationTest, ResidencyAllocatesNothing) {
  for (const Eviction eviction : {Eviction::kNever, Eviction::kLru, Eviction::kDecayedFrequency}) {
    Residency residency({.num_layers = 4,
                         .num_experts = 8,
                         .num_slices = 4,
                         .num_slots = 40,
                         .eviction = eviction,
                         .decay = 0.5});
    std::vector<ExpertId> pinned(8);
    const int64_t before = allocations;
    Rng rng(3);
    int64_t admitted = 0;
    for (int i = 0; i < 2000; ++i) {
      for (ExpertId& id : pinned) id = static_cast<ExpertId>(rng.NextBits() % 32);
      residency.AdvanceTokens(3);
      residency.Pin(pinned);
      residency.Want(pinned[0], 2);
      while (residency.Resident(pinned[0]) < 4 && residency.Admit(pinned[0])) ++admitted;
    }
    EXPECT_EQ(allocations - before, 0);
    EXPECT_GE(admitted, 32);
  }
}

TEST(DecisionAllocationTest, DecideAllocatesNothing) {
  CostModel cost;
  cost.cpu = {{{1, 2e-4}, {8, 2e-4}, {16, 4e-4}}, "cpu"};
  cost.dram_slice_seconds = 1e-4;
  cost.has_gpu = true;
  cost.gpu = {{{1, 2e-5}, {100, 2e-5}, {200, 4e-5}}, "gpu"};
  cost.link_slice_seconds = 4e-4;
  const bool is_moe[] = {true, true, false, true};
  for (const std::string_view name : PolicyNames()) {
    const std::unique_ptr<Policy> policy = MakePolicy(
        name, {.num_layers = 4, .is_moe = is_moe, .num_experts = 64, .num_slices = 4, .num_slots = 300},
        cost);
    Residency residency(policy->Slots());
    for (const ExpertId id : policy->Placement({}))
      while (residency.Resident(id) < 4 && residency.Admit(id)) continue;
    std::vector<ExpertWork> work;
    work.reserve(64);
    std::vector<ExpertId> ids;
    ids.reserve(64);
    const int64_t before = allocations;
    Rng rng(4);
    double seconds = 0;
    for (int i = 0; i < 200; ++i) {  // as the engine does, layer by layer
      const int64_t layer = std::array{0, 1, 3}[static_cast<size_t>(i % 3)];
      if (layer == 0) residency.AdvanceTokens(1);
      work.clear();
      ids.clear();
      for (int32_t expert = 0; expert < 64; ++expert) {
        if (rng.NextUnit() < 0.5) continue;
        work.push_back({expert, 1 + static_cast<int64_t>(rng.NextBits() % 64)});
        ids.push_back(residency.IdOf(layer, expert));
        residency.Want(ids.back(), work.back().tokens);
      }
      residency.Pin(ids);
      const LayerDecision decision = policy->Decide(layer, work, residency);
      seconds += decision.times.seconds();
      for (size_t e = 0; e < ids.size(); ++e) {
        for (int64_t slice = 0; slice < decision.shares[e].fetch && residency.Admit(ids[e]); ++slice)
          continue;
      }
    }
    EXPECT_EQ(allocations - before, 0) << name;
    EXPECT_GT(seconds, 0);
  }
}

}  // namespace
}  // namespace fiddler

#endif
