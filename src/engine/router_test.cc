#include "engine/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace fiddler {
namespace {

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice Route(const MoeSpec& moe, std::vector<float> logits) {
  Choice choice = {.experts = std::vector<int32_t>(static_cast<size_t>(moe.top_k)),
                   .weights = std::vector<float>(static_cast<size_t>(moe.top_k))};
  RouteToken(moe, logits, choice.experts, choice.weights);
  return choice;
}

// As it is defined, in double: sort all experts by logit, then by number.
Choice RouteByDefinition(const MoeSpec& moe, const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const double largest = logits[static_cast<size_t>(order.front())];
  const auto share = [&](int32_t expert) { return std::exp(logits[static_cast<size_t>(expert)] - largest); };
  double total = 0;
  double chosen = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    total += share(order[k]);
    if (static_cast<int64_t>(k) < moe.top_k) chosen += share(order[k]);
  }
  Choice choice;
  for (size_t k = 0; k < static_cast<size_t>(moe.top_k); ++k) {
    choice.experts.push_back(order[k]);
    choice.weights.push_back(static_cast<float>(share(order[k]) / (moe.renormalize ? chosen : total)));
  }
  return choice;
}

void ExpectSame(const Choice& got, const Choice& expected) {
  EXPECT_EQ(got.experts, expected.experts);
  for (size_t k = 0; k < expected.weights.size(); ++k) {
    EXPECT_NEAR(got.weights[k], expected.weights[k], 1e-6f);
  }
}

TEST(RouteTokenTest, AsDefined) {
  Rng rng(1);
  for (int64_t num_experts : {1, 2, 7, 64, 128}) {
    for (int64_t top_k : {int64_t{1}, int64_t{2}, num_experts / 2, num_experts}) {
      if (top_k < 1 || top_k > num_experts) continue;
      for (bool renormalize : {false, true}) {
        const MoeSpec moe = {.num_experts = num_experts, .top_k = top_k, .renormalize = renormalize};
        for (int round = 0; round < 20; ++round) {
          std::vector<float> logits(static_cast<size_t>(num_experts));
          // In even rounds steps of 0.5: with many experts full of ties, which go to the lower number.
          for (float& logit : logits) {
            logit = static_cast<float>(rng.NextUnit() * 8 - 4);
            if (round % 2 == 0) logit = std::round(logit * 2) / 2;
          }
          ExpectSame(Route(moe, logits), RouteByDefinition(moe, logits));
        }
      }
    }
  }
}

TEST(RouteTokenTest, FarApartLogitsStayFinite) {
  const MoeSpec moe = {.num_experts = 4, .top_k = 3, .renormalize = true};
  for (const std::vector<float>& logits :
       {std::vector<float>{-1e4f, 1e4f, 0, 1e4f}, std::vector<float>{-INFINITY, 3, -INFINITY, -1e30f}}) {
    const Choice choice = Route(moe, logits);
    EXPECT_EQ(choice.experts.front(), 1);
    EXPECT_NEAR(std::accumulate(choice.weights.begin(), choice.weights.end(), 0.0f), 1, 1e-6f);
    EXPECT_EQ(std::count_if(choice.weights.begin(), choice.weights.end(), [](float w) { return w >= 0; }), 3);
    std::vector<int32_t> experts = choice.experts;
    std::sort(experts.begin(), experts.end());
    EXPECT_EQ(std::unique(experts.begin(), experts.end()), experts.end()) << "an expert chosen twice";
  }
}

// Groups by definition: for each expert the tokens that chose it, in the order of the batch.
void ExpectGrouped(const ExpertGroups& groups, const std::vector<int32_t>& experts, int64_t top_k,
                   int64_t num_experts) {
  size_t group_index = 0;
  int64_t slot = 0;
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    if (std::count(experts.begin(), experts.end(), expert) == 0) continue;
    ASSERT_LT(group_index, groups.groups().size());
    const ExpertGroups::Group& group = groups.groups()[group_index++];
    EXPECT_EQ(group.expert, expert);
    EXPECT_EQ(group.first_slot, slot);
    for (size_t i = 0; i < experts.size(); ++i) {
      if (experts[i] != expert) continue;
      EXPECT_EQ(groups.SlotOf(static_cast<int64_t>(i)), slot);
      EXPECT_EQ(groups.token_of_slot()[slot], static_cast<int64_t>(i) / top_k);
      ++slot;
    }
    EXPECT_EQ(group.first_slot + group.tokens, slot);
  }
  EXPECT_EQ(group_index, groups.groups().size());
  EXPECT_EQ(slot, static_cast<int64_t>(experts.size()));
}

TEST(ExpertGroupsTest, AsDefinedAndReusable) {
  constexpr int64_t kMaxTokens = 40;
  Rng rng(2);
  for (int64_t num_experts : {1, 3, 16}) {
    for (int64_t top_k : {1, 2, 3}) {
      if (top_k > num_experts) continue;
      ExpertGroups groups(kMaxTokens * top_k, num_experts);
      for (int64_t tokens : {kMaxTokens, int64_t{1}, int64_t{17}, int64_t{0}, kMaxTokens}) {
        std::vector<int32_t> experts;
        for (int64_t t = 0; t < tokens; ++t) {  // distinct experts for each token
          std::vector<int32_t> all(static_cast<size_t>(num_experts));
          std::iota(all.begin(), all.end(), 0);
          for (int64_t k = 0; k < top_k; ++k) {
            const auto pick = static_cast<std::ptrdiff_t>(rng.NextBits() % all.size());
            experts.push_back(all[static_cast<size_t>(pick)]);
            all.erase(all.begin() + pick);
          }
        }
        groups.Build(experts, top_k);
        ExpectGrouped(groups, experts, top_k, num_experts);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
