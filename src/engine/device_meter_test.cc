#include "engine/device_meter.h"

#include <gtest/gtest.h>

#include "base/error_testing.h"
#include "device/emulated.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

constexpr int64_t kTokens[] = {1, 16, 512};

std::unique_ptr<Device> OpenDevice(uint64_t bytes) {
  return OpenEmulatedDevice({.memory_bytes = bytes, .adversary_seed = {}, .pool = nullptr, .drop_wait = {}},
                            BestKernels());
}

// Figures of a computer: nothing in less than a nanosecond or more than a second; larger copies take longer.
TEST(DeviceMeterTest, FiguresAreThoseOfAComputer) {
  ThreadPool pool(1, DiscoverTopology());
  const SlicedFfn expert = {.data = nullptr,
                            .format = WeightFormat::kBF16,
                            .hidden = 128,
                            .intermediate = 192,
                            .slice_neurons = 64};
  CpuMeter cpu(expert, BestKernels(), pool, Arithmetic::kFast, kTokens, 5 << 20, 0.005);
  const std::unique_ptr<Device> device = OpenDevice(20 << 20);
  const uint64_t used = device->memory().used_bytes;
  {
    DeviceMeter meter(*device, cpu, kTokens, 0.005);
    EXPECT_LE(device->memory().used_bytes, device->memory().cap_bytes);
    DeviceCosts costs;
    bool grow =
        false;  // what is larger takes longer: in the median of enough rounds, however busy the machine
    for (int round = 0; round < 60 && !(grow && round >= 3); ++round) {
      meter.Round();
      costs = meter.Medians();
      grow = costs.slice[2].seconds > costs.slice[0].seconds &&
             costs.link[3].in_seconds > costs.link[0].in_seconds;
    }
    EXPECT_TRUE(grow);
    ASSERT_EQ(costs.slice.size(), 3u);
    const auto plausible = [](double seconds) { return seconds > 1e-9 && seconds < 1; };
    for (const CostSample& sample : costs.slice) EXPECT_TRUE(plausible(sample.seconds)) << sample.seconds;
    ASSERT_EQ(costs.link.size(), 4u);  // 64 KiB to 4 MiB: a quarter of the memory
    for (const LinkSample& sample : costs.link) {
      EXPECT_TRUE(plausible(sample.in_seconds) && plausible(sample.out_seconds)) << sample.bytes;
    }
    EXPECT_TRUE(plausible(costs.link_slice_seconds));
    EXPECT_GT(costs.joint_gbps, 0.01);
    EXPECT_LT(costs.joint_gbps, 5000);
    EXPECT_TRUE(plausible(costs.handoff_p50_seconds));
    EXPECT_GE(costs.handoff_p99_seconds, costs.handoff_p50_seconds);
    EXPECT_GE(costs.start_seconds, 0);
  }
  EXPECT_EQ(device->memory().used_bytes, used);  // nothing is kept
}

TEST(DeviceMeterTest, NoRoomIsAnError) {
  ThreadPool pool(1, DiscoverTopology());
  const SlicedFfn expert = {
      .data = nullptr, .format = WeightFormat::kF32, .hidden = 128, .intermediate = 64, .slice_neurons = 64};
  CpuMeter cpu(expert, BestKernels(), pool, Arithmetic::kFast, kTokens, 1, 0.001);
  const std::unique_ptr<Device> device = OpenDevice(4096);
  EXPECT_NE(ErrorOf([&] { DeviceMeter(*device, cpu, kTokens, 0.001); }), "");
}

}  // namespace
}  // namespace fiddler
