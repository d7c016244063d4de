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
  EXPECT_GT(probe.ReadGigabytesPerSecond(), 0.2);
  EXPECT_LT(probe.ReadGigabytesPerSecond(), 5000);
  EXPECT_GT(probe.Float32Gigaflops(), 0.2);
  EXPECT_LT(probe.Float32Gigaflops(), 20000);
}

}  // namespace
}  // namespace fiddler
