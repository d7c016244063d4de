#include "engine/cpu_meter.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/dispatch.h"

namespace fiddler {
namespace {

SlicedFfn TinyExpert(WeightFormat format) {
  return {.data = nullptr, .format = format, .hidden = 128, .intermediate = 192, .slice_neurons = 64};
}

TEST(MadeUpExpertsTest, EverySliceIsThereAndTheSame) {
  ThreadPool pool(2, DiscoverTopology());
  for (const WeightFormat format : kWeightFormats) {
    const SlicedFfn tiny = TinyExpert(format);
    const MadeUpExperts made_up(tiny, 5 * tiny.bytes() + 7, pool);
    ASSERT_EQ(made_up.experts().size(), 5u);
    const std::byte* first = made_up.bytes().data();
    EXPECT_NE(std::memcmp(first, std::vector<std::byte>(tiny.bytes()).data(), tiny.bytes()), 0);  // not zeros
    for (const SlicedFfn& expert : made_up.experts()) {
      for (int64_t s = 0; s < expert.num_slices(); ++s) {
        EXPECT_EQ(std::memcmp(expert.GateUp(s).data, first, static_cast<size_t>(tiny.slice_bytes())), 0);
      }
    }
    EXPECT_EQ(MadeUpExperts(tiny, 1, pool).experts().size(), 1u);
  }
}

// What is measured is that of a computer: no slice in less than a nanosecond or more than a second, many
// tokens more than one.
TEST(CpuMeterTest, FiguresAreThoseOfAComputer) {
  ThreadPool pool(1, DiscoverTopology());
  const int64_t tokens[] = {1, 16, 512};
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt4}) {
    CpuMeter meter(TinyExpert(format), BestKernels(), pool, Arithmetic::kFast, tokens, 1 << 20, 0.01);
    CpuCosts costs;
    bool grow = false;  // many tokens take longer: in the median of enough rounds, however busy the machine
    for (int round = 0; round < 60 && !(grow && round >= 3); ++round) {
      meter.Round();
      costs = meter.Medians();
      grow = costs.slice[2].seconds > 4 * costs.slice[0].seconds;
    }
    EXPECT_TRUE(grow);
    ASSERT_EQ(costs.slice.size(), 3u);
    for (size_t i = 0; i < costs.slice.size(); ++i) {
      EXPECT_EQ(costs.slice[i].tokens, static_cast<double>(tokens[i]));
      EXPECT_GT(costs.slice[i].seconds, 1e-9);
      EXPECT_LT(costs.slice[i].seconds, 1);
    }
    EXPECT_GT(costs.start_seconds, 1e-8);
    EXPECT_LT(costs.start_seconds, 0.1);
    EXPECT_GT(costs.read_gbps, 0.1);
    EXPECT_GT(costs.peak_gops, 0.2);
    EXPECT_GE(costs.spread, 0);
  }
}

}  // namespace
}  // namespace fiddler
