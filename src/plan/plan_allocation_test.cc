// Planning a layer allocates nothing. This file replaces the global operator new of the whole test binary to
// count; sanitizers bring their own and cannot be counted this way.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "plan/planning_testing.h"

#if defined(__has_feature)
#define FIDDLER_HAS_FEATURE(feature) __has_feature(feature)
#else
#define FIDDLER_HAS_FEATURE(feature) 0
#endif

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !FIDDLER_HAS_FEATURE(address_sanitizer) && !FIDDLER_HAS_FEATURE(thread_sanitizer)

namespace {

std::atomic<int64_t> allocations{0};

void* CountedAllocation(size_t bytes, size_t alignment) {
  ++allocations;
  void* memory = alignment <= alignof(std::max_align_t)
                     ? std::malloc(bytes)
                     : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return CountedAllocation(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return CountedAllocation(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

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
