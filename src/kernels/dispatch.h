// Which kernels this machine runs. Tests walk SupportedKernels(); production takes BestKernels().
#pragma once

#include <span>

#include "kernels/ops.h"

namespace fiddler {

// The scalar oracle: slow, obvious, never optimised. What every other set is tested against.
const CpuKernels& GenericKernels();

// Every set that runs on this machine, best first; the last is GenericKernels().
std::span<const CpuKernels* const> SupportedKernels();

// The best set, or the one named by the environment variable FIDDLER_ISA (for tests and reports).
// Throws Error if that name is unknown or does not run here.
const CpuKernels& BestKernels();

}  // namespace fiddler
