// Measures the limits that kernels are held against, on the calling thread and with the instructions of one
// set. Several threads at once: call from each. Times are CPU time of the thread, so that a busy machine
// shows less.
#pragma once

#include <span>

#include "kernels/ops.h"

namespace fiddler {

double ThreadSeconds();  // CPU time of the calling thread so far

// Bytes a second of one pass over data; cold only if data is larger than the caches.
double MeasureReadRate(const CpuKernels& kernels, std::span<const float> data);

// Operations a second of one of the set's arithmetic probes. As many rounds take about a millisecond.
double MeasureRate(double (*probe)(int64_t rounds), int64_t rounds = 200'000);

}  // namespace fiddler
