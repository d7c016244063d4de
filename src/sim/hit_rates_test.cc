#include "sim/hit_rates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <tuple>

#include "base/rng.h"
#include "sim/access_list.h"
#include "sim/belady.h"

namespace fiddler {
namespace {

// Steps of 1 to max_tokens tokens that choose experts at random, low ones more often.
RoutingTrace RandomTrace(Rng& rng, const RoutingGeometry& geometry, int64_t steps, int64_t max_tokens) {
  RoutingTrace trace(geometry);
  for (; steps > 0; --steps) {
    const int64_t tokens = 1 + static_cast<int64_t>(rng.NextUnit() * static_cast<double>(max_tokens));
    std::vector<uint16_t> experts;
    for (int64_t i = 0; i < geometry.num_layers * tokens; ++i) {
      std::vector<uint16_t> chosen;
      while (static_cast<int64_t>(chosen.size()) < geometry.top_k) {
        const double unit = rng.NextUnit();
        const auto expert = static_cast<uint16_t>(unit * unit * static_cast<double>(geometry.num_experts));
        if (std::ranges::find(chosen, expert) == chosen.end()) chosen.push_back(expert);
      }
      experts.insert(experts.end(), chosen.begin(), chosen.end());
    }
    trace.AddStep(tokens, experts);
  }
  return trace;
}

// The best of all ways to fill the slots, by trying every set of experts after every step.
int64_t MostHits(const AccessList& list, int32_t num_experts, int slots) {
  const uint32_t num_sets = 1u << num_experts;
  constexpr int64_t kImpossible = -1;
  std::vector<int64_t> best(num_sets, kImpossible);  // hits so far, by what is in the slots
  for (uint32_t set = 0; set < num_sets; ++set) {
    if (std::popcount(set) <= slots) best[set] = 0;
  }
  for (int64_t step = 0; step < list.num_steps(); ++step) {
    uint32_t needed = 0;
    for (const AccessList::Access& access : list.Step(step)) needed |= 1u << access.expert;
    std::vector<int64_t> next(num_sets, kImpossible);
    for (uint32_t set = 0; set < num_sets; ++set) {
      if (best[set] == kImpossible) continue;
      for (uint32_t after = 0; after < num_sets; ++after) {
        if ((after & ~(set | needed)) != 0 || std::popcount(after) > slots) continue;
        next[after] = std::max(next[after], best[set] + std::popcount(set & needed));
      }
    }
    best = std::move(next);
  }
  return *std::ranges::max_element(best);
}

TEST(BeladyTest, HasTheMostHitsThereAre) {
  Rng rng(1);
  for (int round = 0; round < 60; ++round) {
    const RoutingGeometry geometry = {.num_layers = 1, .num_experts = 6, .top_k = 1 + round % 3};
    const AccessList list = LayerAccesses(RandomTrace(rng, geometry, 9, 1 + round % 2), 0);
    for (int slots = 0; slots <= 6; ++slots) {
      ASSERT_EQ(BeladyHits(list, slots), MostHits(list, 6, slots))
          << "round " << round << ", slots " << slots;
    }
  }
}

TEST(HitRatesTest, BeladyHasAtLeastTheHitsOfEveryPolicy) {
  Rng rng(2);
  for (int round = 0; round < 40; ++round) {
    const RoutingGeometry geometry = {.num_layers = 2, .num_experts = 12, .top_k = 1 + round % 4};
    const RoutingTrace trace = RandomTrace(rng, geometry, 100, 1 + round % 3);
    for (int64_t slots = 0; slots <= 13; ++slots) {
      const HitCount best = Replay(trace, {.policy = ReplayPolicy::kBelady, .slots_per_layer = slots});
      for (const ReplayPolicy policy :
           {ReplayPolicy::kStatic, ReplayPolicy::kLru, ReplayPolicy::kDecayedFrequency}) {
        const HitCount count = Replay(trace, {.policy = policy, .slots_per_layer = slots, .decay = 0.8});
        EXPECT_EQ(count.accesses, best.accesses);
        EXPECT_LE(count.hits, best.hits) << "round " << round << ", slots " << slots;
        if (slots == 0) {
          EXPECT_EQ(count.hits, 0);
        }
      }
    }
  }
}

RoutingTrace TwoLayers() {
  RoutingTrace trace({.num_layers = 2, .num_experts = 4, .top_k = 2});
  for (int round = 0; round < 2; ++round) {
    trace.AddStep(1, std::vector<uint16_t>{0, 1, /**/ 3, 2});
    trace.AddStep(2, std::vector<uint16_t>{1, 0, 2, 1, /**/ 3, 2, 2, 3});
    trace.AddStep(1, std::vector<uint16_t>{2, 3, /**/ 2, 3});
  }
  return trace;
}

TEST(AccessListTest, NamesEveryExpertOnceAStep) {
  const AccessList list = LayerAccesses(TwoLayers(), 0);
  ASSERT_EQ(list.num_steps(), 6);
  const auto step = list.Step(1);
  ASSERT_EQ(step.size(), 3u);
  for (const auto& [i, expert, tokens] : {std::tuple(0, 1, 2), std::tuple(1, 0, 1), std::tuple(2, 2, 1)}) {
    EXPECT_EQ(step[static_cast<size_t>(i)].expert, expert);
    EXPECT_EQ(step[static_cast<size_t>(i)].tokens, tokens);
  }
}

TEST(HitRatesTest, CountsByHand) {
  // Layer 0 asks for 01, 102, 23, 01, 102, 23; layer 1 for nothing but 2 and 3, twelve times.
  const RoutingTrace trace = TwoLayers();
  const auto replay = [&](ReplayPolicy policy, int64_t slots) {
    const HitCount count = Replay(trace, {.policy = policy, .slots_per_layer = slots, .decay = 0.5});
    EXPECT_EQ(count.accesses, 14 + 12);
    return count.hits;
  };
  // Two slots: the second step's 2 finds both pinned, so 23 are fetched anew, and so on; layer 1 misses
  // twice.
  EXPECT_EQ(replay(ReplayPolicy::kLru, 2), 2 + 2 + 10);
  // Three: 2 stays for the third step, 3 takes the slot of 1 (named before 0), then 1 misses and takes that
  // of 2, the older of 23.
  EXPECT_EQ(replay(ReplayPolicy::kLru, 3), 2 + 1 + 1 + 2 + 1 + 10);
  // Layer 0's choices are 0: 4, 1: 6, 2: 4, 3: 2.
  EXPECT_EQ(replay(ReplayPolicy::kStatic, 1), 4 + 6);
  EXPECT_EQ(replay(ReplayPolicy::kStatic, 2), 4 + 4 + 12);
  EXPECT_EQ(replay(ReplayPolicy::kStatic, 3), 4 + 4 + 4 + 12);
  for (const auto policy : {ReplayPolicy::kLru, ReplayPolicy::kDecayedFrequency}) {
    EXPECT_EQ(replay(policy, 4), 10 + 10);  // each expert misses once
    EXPECT_EQ(replay(policy, 1000), 10 + 10);
  }
  EXPECT_EQ(replay(ReplayPolicy::kBelady, 4), 26);
}

TEST(HitRatesTest, DistinctExpertsOfWindows) {
  const RoutingTrace trace = TwoLayers();
  // 8 tokens; layer 0: 01 10 21 23 01 10 21 23; layer 1: 2 and 3 all the time.
  EXPECT_DOUBLE_EQ(MeanDistinctExperts(trace, 1), 2);
  EXPECT_DOUBLE_EQ(MeanDistinctExperts(trace, 2), ((2 + 3 + 2 + 3) / 4.0 + 2) / 2);
  EXPECT_DOUBLE_EQ(MeanDistinctExperts(trace, 3), ((3 + 4) / 2.0 + 2) / 2);  // the last two are no window
  EXPECT_DOUBLE_EQ(MeanDistinctExperts(trace, 8), (4 + 2) / 2.0);
  EXPECT_DOUBLE_EQ(MeanDistinctExperts(trace, 9), 0);
}

}  // namespace
}  // namespace fiddler
