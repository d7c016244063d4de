#include "calibrate/limits.h"

#include <gtest/gtest.h>

#include "kernels/dispatch.h"

namespace fiddler {
namespace {

// No machine reads slower than a disk or faster than its caches; no core computes less than one FMA in ten
// cycles.
TEST(LimitProbeTest, FiguresAreThoseOfAComputer) {
  ThreadPool pool(2, DiscoverTopology());
  LimitProbe probe(BestKernels(), pool);
  const Limits limits = probe.MeasureAll();
  EXPECT_GT(limits.read_gbps, 0.2);
  EXPECT_LT(limits.read_gbps, 5000);
  for (const double arithmetic : {limits.f32_gflops, limits.bf16_gflops, limits.int8_gops}) {
    EXPECT_GT(arithmetic, 0.2);
    EXPECT_LT(arithmetic, 100'000);
  }
}

// Narrower numbers are never slower: at worst a set has no instructions of their own.
TEST(LimitProbeTest, ArithmeticOfAFormat) {
  ThreadPool pool(1, DiscoverTopology());
  LimitProbe probe(BestKernels(), pool);
  const double f32 = probe.ArithmeticGigaops(WeightFormat::kBF16, Rounding::kNone);
  const double bf16 = probe.ArithmeticGigaops(WeightFormat::kBF16, Rounding::kBF16);
  const double int8 = probe.ArithmeticGigaops(WeightFormat::kInt4, Rounding::kInt8Group32);
  EXPECT_GT(bf16, 0.7 * f32);
  EXPECT_GT(int8, 0.7 * bf16);
}

}  // namespace
}  // namespace fiddler
