// Measures what slices of experts cost the CPU of this machine, round by round, so that several geometries
// can be measured in turns and what else runs on the machine meets all of them alike. Fitted and kept by
// calibrate/.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/limits.h"
#include "calibrate/measurements.h"
#include "engine/expert_timer.h"
#include "engine/parallel_ops.h"
#include "experts/slice.h"
#include "kernels/ops.h"

namespace fiddler {

inline constexpr int64_t kCalibratedTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

class CpuMeter {
 public:
  // Of slices of `expert` (its data is not looked at), all threads of the pool at them, with these numbers of
  // tokens, which ascend. A timing takes `timed_seconds` where as many runs fit, at least one. Fills `bytes`
  // of memory with experts, at least one: far more than the caches hold. The references must outlive this
  // object. Throws Error if memory is short.
  CpuMeter(const SlicedFfn& expert, const CpuKernels& kernels, ThreadPool& pool, Arithmetic arithmetic,
           std::span<const int64_t> tokens, uint64_t bytes, double timed_seconds);

  // Measures everything once: the limits, the start of a layer, every number of tokens. At most a second or
  // two.
  void Round();

  CpuCosts Medians() const;  // over the rounds, of which there was one

  // Runs experts with one token, for about so long, at least one.
  struct Reading {
    double bytes;
    double seconds;
  };
  Reading ReadExperts(double seconds);

  // The experts, one behind the other.
  std::span<const SlicedFfn> experts() const { return made_up_.experts(); }
  std::span<const std::byte> bytes() const { return made_up_.bytes(); }
  Rounding rounding() const { return timer_.rounding(); }

 private:
  const CpuKernels& kernels_;
  ThreadPool& pool_;
  std::vector<int64_t> tokens_;
  std::vector<int64_t> runs_;  // [tokens], of a timing
  const int64_t passes_;       // of a run
  MadeUpExperts made_up_;
  ExpertTimer timer_;
  LimitProbe probe_;

  std::vector<std::vector<double>> seconds_;  // [tokens], one of each round; so are the others
  std::vector<double> start_;
  std::vector<double> read_gbps_;
  std::vector<double> peak_gops_;
};

}  // namespace fiddler
