#include "sim/drift.h"

#include <gtest/gtest.h>

#include <vector>

#include "sim/routing_generator.h"

namespace fiddler {
namespace {

// One layer, one expert a token.
RoutingTrace TraceOf(int64_t experts, const std::vector<uint16_t>& choices) {
  RoutingTrace trace({.num_layers = 1, .num_experts = experts, .top_k = 1});
  for (const uint16_t choice : choices) trace.AddStep(1, std::vector<uint16_t>{choice});
  return trace;
}

TEST(DriftTest, CountsWhatIsNewInTheTopSet) {
  // Windows of 3: top 2 are {0, 1}, {1, 2}, {1, 2}; a window that is not whole does not count.
  const RoutingTrace trace = TraceOf(4, {0, 1, 0, /**/ 1, 2, 2, /**/ 2, 1, 1, /**/ 3, 3});
  EXPECT_EQ(TopSetDrift(trace, 3, 2), (0.5 + 0.0) / 2);
  EXPECT_EQ(TopSetDrift(trace, 3, 4), 0);
  EXPECT_EQ(TopSetDrift(trace, 5, 1), 1.0);  // 0 (ties to the lower number), then 1: 2, 2, 1, 1, 3 -> 1
  EXPECT_EQ(TopSetDrift(trace, 6, 1), std::nullopt);
}

TEST(DriftTest, LayersAreOnTheirOwn) {
  RoutingTrace trace({.num_layers = 2, .num_experts = 3, .top_k = 1});
  trace.AddStep(2, std::vector<uint16_t>{0, 0, /**/ 1, 1});
  trace.AddStep(2, std::vector<uint16_t>{0, 0, /**/ 2, 2});
  EXPECT_EQ(TopSetDrift(trace, 2, 1), 0.5);
}

}  // namespace
}  // namespace fiddler
