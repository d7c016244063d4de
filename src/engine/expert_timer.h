// Times experts with a number of tokens, cold: as they are used one after the other, each has left the caches
// when its turn comes again, if all of them together are larger. What `bench --experts` and calibrate measure
// with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "engine/parallel_ops.h"
#include "engine/sliced_ffn.h"
#include "engine/workspace.h"
#include "experts/slice.h"
#include "kernels/ops.h"

namespace fiddler {

// Experts of one geometry in memory of their own, for machines that have no model at hand. Every slice has
// the same made-up weights: what they are does not change how long they take.
class MadeUpExperts {
 public:
  // As many experts as fill `bytes`, at least one. `geometry.data` is not looked at. Throws Error if memory
  // is short.
  MadeUpExperts(const SlicedFfn& geometry, uint64_t bytes, ThreadPool& pool);

  std::span<const SlicedFfn> experts() const { return experts_; }
  std::span<const std::byte> bytes() const { return memory_.bytes(); }

 private:
  HugePageBuffer memory_;
  std::vector<SlicedFfn> experts_;
};

class ExpertTimer {
 public:
  // `experts`: at least one, all of one geometry. A run has up to `max_passes` of them with up to
  // `max_tokens` tokens each. What the experts look at and the references must outlive this object. Throws
  // Error if memory is short.
  ExpertTimer(std::vector<SlicedFfn> experts, const CpuKernels& kernels, ThreadPool& pool,
              Arithmetic arithmetic, int64_t max_tokens, int64_t max_passes = 1);

  const SlicedFfn& expert() const { return experts_.front(); }
  size_t num_experts() const { return experts_.size(); }
  Rounding rounding() const { return ops_.RoundingFor(expert().format); }

  // Seconds of one run, the mean over `runs`. Each runs `passes` experts, those that were not used for the
  // longest time, with `tokens` tokens each, the same for all.
  double Time(int64_t runs, int64_t tokens, int64_t passes = 1);

 private:
  std::vector<SlicedFfn> experts_;
  Workspace workspace_;
  ParallelOps ops_;
  SlicedFfnRunner runner_;
  float* x_;    // [max_tokens, hidden]
  float* out_;  // [max_tokens, hidden]
  std::vector<FfnPass> passes_;
  size_t next_ = 0;
};

// Seconds of one token through the FFN of a MoE layer of 8 experts, 2 of them active, whose weights stay in
// the caches (64 x 64, one slice each): what a layer costs at least beside reading its weights (routing,
// waking and joining threads, rounding, adding up).
double TimeCachedLayer(const CpuKernels& kernels, ThreadPool& pool);

}  // namespace fiddler
