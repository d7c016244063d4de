// Kernels over a thread pool: how one op is split into tasks. A task is a run of output rows (MatMul) or one
// token (ForEachToken); the split never changes a result, so any number of threads computes the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "kernels/ops.h"

namespace fiddler {

class ParallelOps {
 public:
  // Rows of a matrix in one task: at 2,048 columns of bf16 256 KB, some 10 us of reading, so that handing it
  // out costs little and the last task to finish is short.
  static constexpr int64_t kRowsPerTask = 64;

  static int64_t NumRowTasks(int64_t rows) { return (rows + kRowsPerTask - 1) / kRowsPerTask; }

  // Both must outlive this object.
  ParallelOps(const CpuKernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() const { return pool_; }

  // Independent products in one parallel region. Row ranges in the arguments are set here.
  void MatMul(std::span<const MatMulArgs> products) const;

  // body(token) for every token, in parallel where there are enough of them to be worth waking the threads.
  template <typename Body>
  void ForEachToken(int64_t tokens, Body&& body) const {
    constexpr int64_t kWorthIt = 8;
    if (tokens < kWorthIt) {
      for (int64_t t = 0; t < tokens; ++t) body(t);
    } else {
      pool_.ParallelFor(tokens, [&](int64_t t, int) { body(t); });
    }
  }

  // RMSNorm of each row of x [tokens, weight.size()] into y of the same shape; y may be x.
  void Norm(int64_t tokens, const float* x, std::span<const float> weight, float epsilon, float* y) const;

  // hidden += branch, both [tokens, width].
  void Add(int64_t tokens, int64_t width, const float* branch, float* hidden) const;

 private:
  const CpuKernels& kernels_;
  ThreadPool& pool_;
};

}  // namespace fiddler
