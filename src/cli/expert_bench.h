// What a number of tokens on one expert costs: from one, where reading the weights is the limit, to many,
// where multiplying is. Beside each time stand the limits as they were in the same round.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/packed_weights.h"
#include "engine/parallel_ops.h"
#include "kernels/ops.h"

namespace fiddler {

// Medians over the rounds.
struct ExpertTiming {
  int64_t tokens = 0;
  double seconds = 0;          // of one expert
  double gbps = 0;             // weights read
  double gflops = 0;           // 10^9 operations a second
  double percent_of_read = 0;  // of a plain read of as many bytes
  double percent_of_peak = 0;  // of the arithmetic in use
  double times_one_token = 0;  // seconds over those of one token in the same round
};

// Runs the experts of `model`, which must have some, one at a time, with tokens[i] tokens, on all threads of
// the pool; each cold if all of them together are larger than the caches. Throws Error if memory is short.
std::vector<ExpertTiming> TimeExperts(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                      Arithmetic arithmetic, std::span<const int64_t> tokens, int64_t rounds);

}  // namespace fiddler
