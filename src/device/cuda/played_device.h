// For tests: the emulated device (device/emulated.h), with its order of streams, memory and flags, computing
// with CUDA kernels on the machine that plays a GPU (kernels/cuda/emulation). So everything that runs on a
// GPU, up to whole models, runs here through the same kernels.
#pragma once

#include <memory>
#include <set>

#include "device/emulated.h"
#include "kernels/cuda/emulation/machine.h"

namespace fiddler::cuda {

// A factory for EmulatorOptions. `num_sms`: what the operations take for the size of the GPU. `sites`, if not
// null, gets the places in the sources where kernels wait, and must outlive the device.
emulated::OpsFactory PlayedOps(const emulation::MachineOptions& machine = {}, int num_sms = 4,
                               std::set<emulation::Site>* sites = nullptr);

}  // namespace fiddler::cuda
