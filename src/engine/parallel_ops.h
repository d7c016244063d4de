// Kernels over a thread pool: how one op is split into tasks. A task is a run of panels (MatMul) or one token
// (ForEachToken); the split never changes a result, so any number of threads computes the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "engine/workspace.h"
#include "kernels/ops.h"

namespace fiddler {

// How activations enter products.
enum class Arithmetic : uint8_t {
  kFast,   // by the weights' format (FastRounding), on every processor: BF16, or int8 with a scale a group
  kExact,  // float32 as they are
};

// Rows of activations, [tokens, w.cols] of the products they enter.
struct Activations {
  int64_t tokens = 0;
  const float* x = nullptr;
  int64_t stride = 0;
  const int32_t* row_index = nullptr;  // token t is row row_index[t] of x; or null: row t
};

struct Product {
  PackedMatrix w;
  const float* bias = nullptr;  // [w.rows] or null
  float* y = nullptr;           // [tokens, w.rows]
};

// How many panels of a matrix a task takes when there are many tokens: every task reads all of x, so the more
// the better, but some tasks for each thread.
int64_t PanelsPerTask(int64_t panels, int threads);

class ParallelOps {
 public:
  // Both must outlive this object; so must the workspace. MatMul takes up to max_tokens of up to max_cols.
  ParallelOps(const CpuKernels& kernels, ThreadPool& pool, Arithmetic arithmetic, int64_t max_tokens,
              int64_t max_cols, Workspace& workspace);

  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() const { return pool_; }
  Rounding RoundingFor(WeightFormat format) const {
    return arithmetic_ == Arithmetic::kFast ? FastRounding(format) : Rounding::kNone;
  }

  // Products with the same activations and weights of one format, in one parallel region.
  void MatMul(const Activations& activations, std::span<const Product> products) const;

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
  const Arithmetic arithmetic_;
  const int64_t max_tokens_;
  const int64_t max_cols_;
  std::byte* packed_;  // [max_tokens, PackedTokenBytes(max_cols)]
};

}  // namespace fiddler
