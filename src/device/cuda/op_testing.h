// For tests: a device whose operations are CUDA kernels, to be held against one that computes with the CPU's.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "device/cuda/played_device.h"
#include "device/emulated_testing.h"
#include "device/scratch.h"

namespace fiddler::cuda {

// The machine that plays a GPU: `seed` is that of its order, odd ones let asynchronous copies come late. With
// scratch memory of exactly what the limits ask for, so that an operation that takes more fails.
class OpDevice : public testing::TestDevice {
 public:
  explicit OpDevice(const ScratchLimits& scratch = {}, uint64_t seed = 1)
      : OpDevice(scratch,
                 emulation::MachineOptions{.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}}) {}

  OpDevice(const ScratchLimits& scratch, const emulation::MachineOptions& machine, int num_sms = 4)
      : TestDevice(testing::Mode::kOneThread, {.make_ops = PlayedOps(machine, num_sms)}) {
    const uint64_t bytes = ScratchBytes(scratch);
    if (bytes > 0) (*this)->SetScratch(Room<std::byte>(static_cast<int64_t>(bytes)), bytes);
  }
};

}  // namespace fiddler::cuda
