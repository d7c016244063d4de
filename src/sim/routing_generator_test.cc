#include "sim/routing_generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace fiddler {
namespace {

TEST(VariatesTest, TheLogarithmIsTheLogarithm) {
  Rng rng(1);
  double worst = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = std::ldexp(1 + rng.NextUnit(), static_cast<int>(rng.NextUnit() * 2000) - 1000);
    worst = std::max(worst, std::abs(PortableLog(x) / std::log(x) - 1));
    const double near_one = 1 + std::ldexp(rng.NextUnit() - 0.5, -static_cast<int>(rng.NextUnit() * 50));
    if (near_one != 1) worst = std::max(worst, std::abs(PortableLog(near_one) / std::log(near_one) - 1));
  }
  EXPECT_LT(worst, 1e-15);
  EXPECT_EQ(PortableLog(1), 0);
}

TEST(VariatesTest, NormalsAndGumbelsHaveTheirMoments) {
  constexpr int kDraws = 400'000;
  NormalVariates normal(2);
  Rng rng(3);
  double sums[4] = {};
  int within_one = 0;
  double gumbel_sum = 0;
  double gumbel_squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = normal.Next();
    for (int power = 0; power < 4; ++power) sums[power] += std::pow(x, power + 1) / kDraws;
    within_one += std::abs(x) < 1 ? 1 : 0;
    const double g = NextGumbel(rng);
    gumbel_sum += g / kDraws;
    gumbel_squares += g * g / kDraws;
  }
  // Six standard errors or more.
  EXPECT_NEAR(sums[0], 0, 0.01);
  EXPECT_NEAR(sums[1], 1, 0.015);
  EXPECT_NEAR(sums[2], 0, 0.04);
  EXPECT_NEAR(sums[3], 3, 0.1);
  EXPECT_NEAR(static_cast<double>(within_one) / kDraws, 0.6827, 0.005);
  EXPECT_NEAR(gumbel_sum, 0.5772, 0.013);                               // Euler's constant
  EXPECT_NEAR(gumbel_squares - gumbel_sum * gumbel_sum, 1.6449, 0.03);  // pi^2 / 6
}

RoutingTrace Decode(const RoutingStatistics& statistics, int64_t num_layers, int64_t tokens, uint64_t seed) {
  return GenerateRoutingTrace(statistics, num_layers, std::vector<int64_t>(static_cast<size_t>(tokens), 1),
                              seed);
}

TEST(RoutingGeneratorTest, TheSameOnEveryMachine) {
  const std::string bytes = SerializeRoutingTrace(Decode(*FindPublishedRouting("qwen3-30b-a3b"), 3, 50, 7));
  uint64_t checksum = 0;
  for (int i = 7; i >= 0; --i) {
    checksum = checksum << 8 | static_cast<uint8_t>(bytes[bytes.size() - 8 + static_cast<size_t>(i)]);
  }
  EXPECT_EQ(checksum,
            12781055997663152105u);  // once made by this generator; changes only if what it makes changes
}

TEST(RoutingGeneratorTest, SeedsMakeTextsAndModels) {
  const RoutingStatistics& statistics = *FindPublishedRouting("mixtral-8x7b");
  const RoutingTrace trace = Decode(statistics, 2, 100, 1);
  EXPECT_EQ(Decode(statistics, 2, 100, 1), trace);
  EXPECT_FALSE(Decode(statistics, 2, 100, 2) == trace);
  for (const PublishedRouting& published : PublishedRoutings()) {
    const RoutingTrace any = Decode(published.statistics, 1, 20, 1);  // AddStep checks the ids
    EXPECT_EQ(any.geometry().num_experts, published.statistics.num_experts);
  }
  EXPECT_EQ(FindPublishedRouting("gpt-2"), nullptr);
}

// How tokens lie in steps is not what they choose.
TEST(RoutingGeneratorTest, StepsOnlyCutTheText) {
  const RoutingStatistics statistics = {
      .num_experts = 9, .top_k = 3, .popularity = 1, .token = 1, .persistence = 0.5};
  const int64_t steps[] = {5, 1, 2};
  const RoutingTrace cut = GenerateRoutingTrace(statistics, 2, steps, 1);
  const RoutingTrace single = Decode(statistics, 2, 8, 1);
  int64_t first = 0;
  for (int64_t step = 0; step < 3; ++step) {
    for (int64_t layer = 0; layer < 2; ++layer) {
      for (int64_t t = 0; t < cut.tokens(step); ++t) {
        EXPECT_TRUE(std::ranges::equal(cut.Experts(step, layer).subspan(static_cast<size_t>(t) * 3, 3),
                                       single.Experts(first + t, layer)));
      }
    }
    first += cut.tokens(step);
  }
}

// Each of the terms alone, in the extreme where it decides.
TEST(RoutingGeneratorTest, EveryTermDoesWhatItSays) {
  const auto set_of = [](const RoutingTrace& trace, int64_t token) {
    const std::span<const uint16_t> experts = trace.Experts(token, 0);
    return std::set<uint16_t>(experts.begin(), experts.end());
  };
  constexpr double kDecides = 1e6;
  RoutingStatistics statistics = {.num_experts = 64, .top_k = 4, .conversation_tokens = 10};

  RoutingStatistics popular = statistics;
  popular.popularity = kDecides;
  const RoutingTrace always = Decode(popular, 1, 30, 1);
  for (int64_t t = 1; t < 30; ++t) EXPECT_EQ(set_of(always, t), set_of(always, 0));

  RoutingStatistics topical = statistics;
  topical.conversation = kDecides;
  const RoutingTrace conversations = Decode(topical, 1, 30, 1);
  for (int64_t t = 1; t < 30; ++t) {
    EXPECT_EQ(set_of(conversations, t) == set_of(conversations, t - 1), t % 10 != 0) << t;
  }

  // Overlap of the sets of tokens so far apart falls with rho^distance, and rises with rho.
  RoutingStatistics persistent = statistics;
  persistent.token = kDecides;
  persistent.persistence = 0.9;
  const RoutingTrace walk = Decode(persistent, 1, 4000, 1);
  const auto overlap = [&](int64_t distance) {
    int64_t common = 0;
    for (int64_t t = distance; t < 4000; ++t) {
      for (const uint16_t expert : set_of(walk, t)) common += set_of(walk, t - distance).count(expert);
    }
    return static_cast<double>(common) / static_cast<double>(4 * (4000 - distance));
  };
  EXPECT_GT(overlap(1), 0.5);
  EXPECT_GT(overlap(1), overlap(4) + 0.1);
  EXPECT_NEAR(overlap(200), 4.0 / 64, 0.03);

  // Nothing but the Gumbel noise: every expert as often.
  const RoutingTrace noise = Decode(statistics, 1, 4000, 1);
  std::vector<int> uses(64);
  for (int64_t t = 0; t < 4000; ++t) {
    for (const uint16_t expert : noise.Experts(t, 0)) ++uses[expert];
  }
  for (const int count : uses) EXPECT_NEAR(count, 250, 6 * std::sqrt(250));
}

}  // namespace
}  // namespace fiddler
