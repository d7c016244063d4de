// Which kernels this machine runs. Tests walk SupportedKernels(); production takes BestKernels().
#pragma once

#include <span>

#include "kernels/ops.h"

namespace fiddler {

// Raised when a change makes slices of experts cost something else, on any instruction set: what calibrate
// measured of the kernels before is not found any more.
constexpr int kKernelVersion = 1;

// The scalar oracle: slow, obvious, never optimised. What every other set is tested against.
const CpuKernels& GenericKernels();

// Every set that runs on this machine, best first; the last is GenericKernels().
std::span<const CpuKernels* const> SupportedKernels();

// The best set, or the one named by the environment variable FIDDLER_ISA (for tests and reports).
// Throws Error if that name is unknown or does not run here.
const CpuKernels& BestKernels();

}  // namespace fiddler
