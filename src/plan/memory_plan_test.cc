#include "plan/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "base/units.h"

namespace fiddler {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

MemoryNeeds SomeNeeds() {
  return {.device_dense_bytes = 2 * kGiB,
          .kv_bytes = kGiB,
          .device_workspace_bytes = kGiB / 2,
          .slice_bytes = kGiB / 64,
          .num_expert_slices = 1000,
          .host_weight_bytes = 16 * kGiB,
          .host_workspace_bytes = kGiB};
}

MemoryNeeds RandomNeeds(Rng& rng) {
  const auto bytes = [&](uint64_t max) { return rng.NextBits() % max; };
  return {.device_dense_bytes = bytes(8 * kGiB),
          .kv_bytes = bytes(8 * kGiB),
          .device_workspace_bytes = bytes(kGiB),
          .slice_bytes = 1 + bytes(kGiB / 8),
          .num_expert_slices = static_cast<int64_t>(rng.NextBits() % 3000),
          .host_weight_bytes = bytes(64 * kGiB),
          .host_workspace_bytes = bytes(kGiB)};
}

// The size in the line that says why, as the option takes it.
uint64_t SizeBehind(const std::string& reason, const std::string& words) {
  const size_t begin = reason.find(words) + words.size();
  const size_t end = reason.find("iB", begin) + 2;
  return ParseBytes(reason.substr(begin, end - begin), "reason");
}

TEST(MemoryPlanTest, FillsWhatIsLeftWithSlots) {
  const MemoryPlan plan =
      PlanMemory(SomeNeeds(), {.gpu_memory_bytes = 10 * kGiB + 5, .ram_bytes = 17 * kGiB});
  EXPECT_TRUE(plan.fits) << plan.reason;
  EXPECT_EQ(plan.num_slots, 64 * 6 + 32);
  EXPECT_EQ(plan.resident_fraction, 0.416);
  EXPECT_EQ(plan.vram_peak_bytes, 10 * kGiB);
  EXPECT_EQ(plan.ram_peak_bytes, 17 * kGiB);
}

TEST(MemoryPlanTest, NoMoreSlotsThanSlices) {
  const MemoryPlan plan = PlanMemory(SomeNeeds(), {.gpu_memory_bytes = 80 * kGiB, .ram_bytes = 80 * kGiB});
  EXPECT_EQ(plan.num_slots, 1000);
  EXPECT_EQ(plan.resident_fraction, 1);
  EXPECT_EQ(plan.vram_peak_bytes, 3 * kGiB + kGiB / 2 + 1000 * (kGiB / 64));
}

TEST(MemoryPlanTest, WithoutAGpuOnlyRamCounts) {
  const MemoryPlan plan = PlanMemory(SomeNeeds(), {.ram_bytes = 17 * kGiB});
  EXPECT_TRUE(plan.fits) << plan.reason;
  EXPECT_EQ(plan.num_slots, 0);
  EXPECT_EQ(plan.vram_peak_bytes, 0);
}

TEST(MemoryPlanTest, SaysWhatIsOverAndWhatWouldFit) {
  const MemoryPlan gpu = PlanMemory(SomeNeeds(), {.gpu_memory_bytes = 3 * kGiB, .ram_bytes = 99 * kGiB});
  EXPECT_EQ(
      gpu.reason,
      "GPU memory: weights that every token passes, keys and values and workspace need 3.5 GiB, got 3.0 "
      "GiB: --gpu-memory 3.5GiB, or a context 50% as long would fit");
  MemoryNeeds large = SomeNeeds();
  large.device_dense_bytes = 4 * kGiB;
  EXPECT_EQ(
      PlanMemory(large, {.gpu_memory_bytes = 3 * kGiB, .ram_bytes = 99 * kGiB}).reason,
      "GPU memory: weights that every token passes, keys and values and workspace need 5.5 GiB, got 3.0 "
      "GiB: --gpu-memory 5.5GiB would fit");
  EXPECT_EQ(PlanMemory(SomeNeeds(), {.gpu_memory_bytes = 9 * kGiB, .ram_bytes = 9 * kGiB}).reason,
            "RAM: weights and workspace need 17.0 GiB, got 9.0 GiB: weights of 50% of their size would fit");
}

TEST(MemoryPlanTest, NeverExceedsTheBudgetAndWastesLessThanASlice) {
  Rng rng(1);
  int fitting = 0;
  for (int i = 0; i < 20'000; ++i) {
    const MemoryNeeds needs = RandomNeeds(rng);
    const MemoryBudget budget = {.gpu_memory_bytes = rng.NextBits() % (48 * kGiB),
                                 .ram_bytes = rng.NextBits() % (96 * kGiB)};
    const MemoryPlan plan = PlanMemory(needs, budget);
    ASSERT_TRUE(plan.num_slots >= 0 && plan.num_slots <= needs.num_expert_slices);
    ASSERT_EQ(plan.fits, plan.reason.empty());
    ASSERT_EQ(plan.fits,
              plan.vram_peak_bytes <= budget.gpu_memory_bytes && plan.ram_peak_bytes <= budget.ram_bytes);
    if (plan.fits && budget.gpu_memory_bytes > 0) {
      ++fitting;
      if (plan.num_slots < needs.num_expert_slices) {
        ASSERT_LT(budget.gpu_memory_bytes - plan.vram_peak_bytes, needs.slice_bytes);
      }
    } else if (plan.reason.starts_with("GPU")) {
      const uint64_t enough = SizeBehind(plan.reason, "--gpu-memory ");
      ASSERT_TRUE(PlanMemory(needs, {.gpu_memory_bytes = enough, .ram_bytes = 999 * kGiB}).fits)
          << plan.reason;
    }
  }
  EXPECT_GT(fitting, 1000);
}

TEST(MemoryPlanTest, MoreMemoryIsNeverFewerSlots) {
  Rng rng(2);
  for (int i = 0; i < 300; ++i) {
    const MemoryNeeds needs = RandomNeeds(rng);
    int64_t slots = 0;
    bool fits = false;
    for (uint64_t gpu = kGiB; gpu < 48 * kGiB; gpu += kGiB / 4) {
      const MemoryPlan plan = PlanMemory(needs, {.gpu_memory_bytes = gpu, .ram_bytes = 99 * kGiB});
      ASSERT_GE(plan.num_slots, slots);
      ASSERT_TRUE(plan.fits || !fits);
      slots = plan.num_slots;
      fits = plan.fits;
    }
  }
}

}  // namespace
}  // namespace fiddler
