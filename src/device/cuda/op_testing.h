// For tests: a device whose operations are CUDA kernels, to be held against one that computes with the CPU's.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/played_device.h"
#include "device/emulated_testing.h"
#include "device/scratch.h"

namespace fiddler::cuda {

// The machine of a seed: its order, and odd ones let asynchronous copies come late.
inline emulation::MachineOptions MachineOf(uint64_t seed, emulation::Site without = {}) {
  return {.seed = seed, .deferred_copies = seed % 2 == 1, .without = std::move(without)};
}

// With scratch memory of exactly what the limits ask for, so that an operation that takes more fails.
class OpDevice : public testing::TestDevice {
 public:
  explicit OpDevice(const ScratchLimits& scratch = {}, uint64_t seed = 1)
      : OpDevice(scratch, MachineOf(seed)) {}

  // `num_sms` and `sites`: as in PlayedOps.
  OpDevice(const ScratchLimits& scratch, const emulation::MachineOptions& machine, int num_sms = 4,
           std::set<emulation::Site>* sites = nullptr)
      : TestDevice(testing::Mode::kOneThread, {.make_ops = PlayedOps(machine, num_sms, sites)}) {
    const uint64_t bytes = ScratchBytes(scratch);
    if (bytes > 0) (*this)->SetScratch(Room<std::byte>(static_cast<int64_t>(bytes)), bytes);
  }
};

// Runs operations on a device and gives what they computed, of which no number is a NaN. The kernels must be
// such that garbage in shared memory spoils numbers, not addresses, or the test crashes in place of failing.
using OpRun = std::function<std::vector<float>(OpDevice&)>;

struct SitesOptions {
  ScratchLimits scratch = {};
  int num_sms = 4;
  // How many places only a real GPU needs, so that nothing happens here without them: say why where it is
  // set.
  size_t only_on_gpus = 0;
};

// That the kernels of `run` give the same to the last bit in whatever order their threads run, and that each
// place where they wait is needed: without it some order gives something else, or an error.
inline void ExpectEverySiteIsNeeded(const OpRun& run, const SitesOptions& options = {}) {
  if (OnRealGpu()) GTEST_SKIP() << "a GPU cannot be told to forget a barrier";
  constexpr uint64_t kSeeds = 12;
  std::set<emulation::Site> sites;
  const auto result = [&](const emulation::MachineOptions& machine) -> std::optional<std::vector<float>> {
    try {
      OpDevice device(options.scratch, machine, options.num_sms, &sites);
      return run(device);
    } catch (const Error&) {
      return std::nullopt;
    }
  };
  OpDevice first(options.scratch, MachineOf(0), options.num_sms, &sites);
  const std::vector<float> expected = run(first);  // an error here is the test's
  ASSERT_FALSE(testing::AnyNaN(expected));
  for (uint64_t seed = 1; seed < 4; ++seed) ASSERT_EQ(result(MachineOf(seed)), expected) << "seed " << seed;
  std::vector<emulation::Site> not_needed;
  for (const emulation::Site& site : std::set(sites)) {
    bool seen = false;
    for (uint64_t seed = 0; seed < kSeeds && !seen; ++seed) seen = result(MachineOf(seed, site)) != expected;
    if (!seen) not_needed.push_back(site);
  }
  EXPECT_FALSE(sites.empty());
  EXPECT_EQ(not_needed.size(), options.only_on_gpus) << ::testing::PrintToString(not_needed);
}

}  // namespace fiddler::cuda
