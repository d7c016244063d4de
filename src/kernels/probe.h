// Measures the limits that kernels are held against, on the calling thread and with the instructions of one
// set. Several threads at once: call from each. Times are CPU time of the thread, so that a busy machine
// shows less.
#pragma once

#include <span>

#include "kernels/ops.h"

namespace fiddler {

double ThreadSeconds();  // CPU time of the calling thread so far

// Bytes a second of one pass over data, in order; cold only if data is larger than the caches.
double MeasureReadRate(const CpuKernels& kernels, std::span<const float> data);

// Float32 operations a second (an FMA is two), over about a millisecond.
double MeasureFmaRate(const CpuKernels& kernels);

}  // namespace fiddler
