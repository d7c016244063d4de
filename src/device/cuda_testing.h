// For tests of CUDA kernels: they run on the machine that plays a GPU, or, where FIDDLER_TEST_CUDA is set, on
// the GPU of this machine (tools/gpu_trial).
#pragma once

#include <cstdlib>
#include <memory>

#include "device/cuda_loader.h"
#include "device/emulated.h"
#include "kernels/dispatch.h"

namespace fiddler {

inline bool OnRealGpu() { return std::getenv("FIDDLER_TEST_CUDA") != nullptr; }

// With as much memory as `options` say; what else they say, and its kernels if it has any, is of the emulated
// device. Throws Error.
inline std::unique_ptr<Device> OpenTestDevice(const EmulatorOptions& options,
                                              const CpuKernels& kernels = BestKernels()) {
  if (options.make_ops && OnRealGpu()) return OpenCudaDevice(options.memory_bytes);
  return OpenEmulatedDevice(options, kernels);
}

}  // namespace fiddler
