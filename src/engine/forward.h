// The path of a token through the model: forward.cc reads top to bottom.
#pragma once

#include <cstdint>
#include <span>

#include "engine/attention.h"
#include "engine/batch.h"
#include "engine/ffn.h"
#include "engine/packed_weights.h"
#include "engine/parallel_ops.h"
#include "engine/workspace.h"
#include "kv/kv_cache.h"

namespace fiddler {

// Largest shapes a Forward has buffers for.
struct ForwardLimits {
  int64_t batch_tokens = 512;
  int64_t positions = 4096;  // of a sequence
  int64_t logit_rows = 64;
  Arithmetic arithmetic = Arithmetic::kFast;
};

// Keys and values as exact as what they are multiplied with: BF16 where activations are rounded to it or to
// less.
DType KvTypeFor(const PackedModel& model, Arithmetic arithmetic);

class Forward {
 public:
  // All references must outlive this object. Throws Error if memory is short.
  Forward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool, KvCache& cache,
          const ForwardLimits& limits);
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  // Computes the batch and stores its keys and values; the final hidden states stay here until the next Run.
  // Token ids are below vocab_size, positions and batch within the limits (CHECKed).
  void Run(std::span<const BatchEntry> batch);

  // Logits [rows.size(), vocab_size] of those rows of the last batch, valid until the next call. At most
  // limits.logit_rows of them.
  std::span<float> Logits(std::span<const int32_t> rows);

  void Observe(RoutingObserver observer) { ffn_.Observe(std::move(observer)); }
  const ForwardLimits& limits() const { return limits_; }
  uint64_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  void Embed(std::span<const BatchEntry> batch);

  const PackedModel& model_;
  const ForwardLimits limits_;
  Workspace workspace_;
  ParallelOps ops_;
  float* hidden_;  // [batch_tokens, hidden]: the residual stream
  float* normed_;  // [batch_tokens, hidden]
  float* branch_;  // [batch_tokens, hidden]: what a half-layer adds
  float* logits_;  // [logit_rows, vocab_size]
  Attention attention_;
  Ffn ffn_;
};

}  // namespace fiddler
