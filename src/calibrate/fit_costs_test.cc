#include "calibrate/fit_costs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/rng.h"

namespace fiddler {
namespace {

constexpr double kTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

std::vector<CostSample> SamplesOf(const CostTable& table) {
  std::vector<CostSample> samples;
  for (const double tokens : kTokens) samples.push_back({tokens, table.Seconds(tokens)});
  return samples;
}

// A random table whose knots are samples: flat or rising, each slope far from the last.
CostTable PlantedTable(Rng& rng) {
  std::vector<CostTable::Knot> knots = {{1, 1e-5 * (1 + rng.NextUnit())}};
  double slope = 0;
  for (const double tokens : kTokens) {
    const bool is_last = tokens == kTokens[std::size(kTokens) - 1];
    if (tokens == 1 || (!is_last && rng.NextUnit() < 0.6)) continue;
    const double level =
        knots.back().seconds / knots.back().tokens;  // what doubling tokens and seconds takes
    slope = slope > level ? level * rng.NextUnit() / 4 : level * (1.5 + rng.NextUnit());
    knots.push_back({tokens, knots.back().seconds + slope * (tokens - knots.back().tokens)});
  }
  return {knots, "planted"};
}

bool Rises(const CostTable& table) {
  return std::ranges::is_sorted(table.knots(), {}, &CostTable::Knot::seconds);
}

double LargestError(const CostTable& table, const std::vector<CostSample>& samples) {
  double largest = 0;
  for (const CostSample& sample : samples) {
    largest = std::max(largest, std::abs(table.Seconds(sample.tokens) / sample.seconds - 1));
  }
  return largest;
}

// Fewest knots of all subsets of samples (the ends included), tried one by one.
size_t FewestKnots(const std::vector<CostSample>& samples, double tolerance) {
  size_t fewest = samples.size();
  const size_t inner = samples.size() - 2;
  for (size_t subset = 0; subset < (size_t{1} << inner); ++subset) {
    std::vector<CostTable::Knot> knots;
    for (size_t i = 0; i < samples.size(); ++i) {
      const bool is_end = i == 0 || i + 1 == samples.size();
      if (is_end || (subset >> (i - 1) & 1) != 0) knots.push_back({samples[i].tokens, samples[i].seconds});
    }
    if (LargestError({knots, "subset"}, samples) <= tolerance) fewest = std::min(fewest, knots.size());
  }
  return fewest;
}

TEST(FitCostsTest, FindsPlantedTables) {
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const CostTable planted = PlantedTable(rng);
    const CostTable fitted = FitCosts(SamplesOf(planted), 1e-9);
    ASSERT_EQ(fitted.knots().size(), planted.knots().size()) << planted.ToJson() << " " << fitted.ToJson();
    for (size_t k = 0; k < fitted.knots().size(); ++k) {
      EXPECT_EQ(fitted.knots()[k].tokens, planted.knots()[k].tokens);
      EXPECT_DOUBLE_EQ(fitted.knots()[k].seconds, planted.knots()[k].seconds);
    }
  }
}

TEST(FitCostsTest, NoisyPlantedTablesStayClose) {
  Rng rng(2);
  for (int i = 0; i < 200; ++i) {
    const CostTable planted = PlantedTable(rng);
    std::vector<CostSample> samples = SamplesOf(planted);
    for (CostSample& sample : samples) sample.seconds *= 1 + 0.02 * (rng.NextUnit() - 0.5);
    const CostTable fitted = FitCosts(samples, kFitTolerance);
    EXPECT_TRUE(Rises(fitted));
    EXPECT_LE(LargestError(fitted, SamplesOf(planted)), kFitTolerance + 0.021);
  }
}

// Samples without any order in them: within the bound of what does not fall, with as few knots as there can
// be.
TEST(FitCostsTest, FewestKnotsWithinTheBound) {
  Rng rng(3);
  for (int i = 0; i < 100; ++i) {
    std::vector<CostSample> samples;
    for (const double tokens : kTokens)
      samples.push_back({tokens, 1e-6 * (0.5 + rng.NextUnit()) * (20 + tokens)});
    const std::vector<CostSample> rising = WithoutFalls(samples);
    const CostTable fitted = FitCosts(samples, kFitTolerance);
    EXPECT_TRUE(Rises(fitted));
    EXPECT_LE(LargestError(fitted, rising), kFitTolerance * (1 + 1e-9));
    EXPECT_EQ(fitted.knots().size(), FewestKnots(rising, kFitTolerance));
  }
}

TEST(FitCostsTest, OneSampleIsAConstant) {
  const CostSample one[] = {{4, 2e-6}};
  const CostTable fitted = FitCosts(one, kFitTolerance);
  ASSERT_EQ(fitted.knots().size(), 1u);
  EXPECT_EQ(fitted.Seconds(100), 2e-6);
}

TEST(WithoutFallsTest, OnlyWhatFallsChanges) {
  const CostSample samples[] = {{1, 1}, {2, 4}, {4, 4}, {8, 2}, {16, 8}};
  const std::vector<CostSample> rising = WithoutFalls(samples);
  // 4, 4, 2 become their mean with weights 1/16, 1/16, 1/4.
  const double mean = (4.0 / 16 + 4.0 / 16 + 2.0 / 4) / (1.0 / 16 + 1.0 / 16 + 1.0 / 4);
  const double expected[] = {1, mean, mean, mean, 8};
  for (size_t i = 0; i < rising.size(); ++i) EXPECT_DOUBLE_EQ(rising[i].seconds, expected[i]) << i;
}

TEST(FitCostModelTest, CpuAloneAndWithADevice) {
  const CpuCosts cpu = {.slice = {{1, 1e-4}, {512, 5e-3}},
                        .start_seconds = 4e-6,
                        .read_gbps = 50,
                        .peak_gops = 1000,
                        .spread = 0};
  const CostModel alone = FitCostModel(cpu, nullptr, 4e6);
  EXPECT_FALSE(alone.has_gpu);
  EXPECT_EQ(alone.cpu.Seconds(1), 1e-4);
  EXPECT_EQ(alone.cpu_start, 4e-6);
  EXPECT_DOUBLE_EQ(alone.dram_slice_seconds, 8e-5);

  DeviceCosts device = {.slice = {{1, 1e-5}, {512, 1e-4}},
                        .start_seconds = 9e-6,
                        .link = {},
                        .link_slice_seconds = 2e-4,
                        .joint_gbps = 80,
                        .handoff_p50_seconds = 1e-6,
                        .handoff_p99_seconds = 2e-6};
  const CostModel both = FitCostModel(cpu, &device, 4e6);
  EXPECT_TRUE(both.has_gpu);
  EXPECT_EQ(both.gpu.Seconds(512), 1e-4);
  EXPECT_EQ(both.gpu_start, 9e-6);
  EXPECT_DOUBLE_EQ(both.cpu_start, 5e-6);
  EXPECT_EQ(both.link_slice_seconds, 2e-4);
  EXPECT_DOUBLE_EQ(both.dram_slice_seconds, 5e-5);
  device.joint_gbps = 10;  // they were in each other's way: that is no limit of the memory
  EXPECT_DOUBLE_EQ(FitCostModel(cpu, &device, 4e6).dram_slice_seconds, 8e-5);
}

}  // namespace
}  // namespace fiddler
