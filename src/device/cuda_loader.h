// Finds and opens the GPU backend, a shared library of its own (plugin.h): the program has no CUDA in it and
// runs where there is none.
//
// Looked for in this order: the file that FIDDLER_CUDA_PLUGIN names, and then nowhere else;
// libfiddler_cuda.so beside the running program; the same in ../lib of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/device.h"

namespace fiddler {

// A device, or in one line why there is none.
struct CudaOpening {
  // How sure it is that nobody expects a GPU to be used.
  enum class Outcome {
    kOpened,
    kNoPlugin,  // of this build
    kNoDevice,  // in this machine: no driver, no GPU
    kUnusable,  // plugin or GPU are there, but do not work
  };
  Outcome outcome = Outcome::kUnusable;
  std::unique_ptr<Device> device;
  std::string reason;
};

// memory_bytes: what of the device may be used; 0: all that is free. The library is never closed again: the
// CUDA runtime in it has threads and exit handlers of its own.
CudaOpening TryOpenCudaDevice(uint64_t memory_bytes);

// Throws Error with the reason.
std::unique_ptr<Device> OpenCudaDevice(uint64_t memory_bytes);

}  // namespace fiddler
