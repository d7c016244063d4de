// The forward pass on the CPU alone.
#pragma once

#include <cstdint>
#include <span>

#include "engine/attention.h"
#include "engine/ffn.h"
#include "engine/forward.h"
#include "engine/parallel_ops.h"
#include "engine/workspace.h"
#include "kv/kv_cache.h"

namespace fiddler {

class HostForward final : public Forward {
 public:
  // All references must outlive this object. Throws Error if memory is short.
  HostForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
              const ForwardLimits& limits);
  HostForward(const HostForward&) = delete;
  HostForward& operator=(const HostForward&) = delete;

  // Bytes that one with these limits takes: keys and values, and buffers. Takes none.
  struct Needs {
    uint64_t kv_bytes = 0;
    uint64_t workspace_bytes = 0;
  };
  static Needs NeedsOf(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                       const ForwardLimits& limits);

  void Run(std::span<const BatchEntry> batch) override;
  std::span<float> Logits(std::span<const int32_t> rows) override;
  void Observe(RoutingObserver observer) override { ffn_.Observe(std::move(observer)); }

 private:
  HostForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
              const ForwardLimits& limits, Workspace::Mode mode);

  void Embed(std::span<const BatchEntry> batch);

  const PackedModel& model_;
  const ForwardLimits limits_;
  KvCache cache_;
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
