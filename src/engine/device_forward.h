// The forward pass on a device, with the experts shared between it and the CPU: attention, norms, routers and
// the head run on the device; routed experts where the policy says (hybrid_experts.h); the host looks up
// embeddings and gets the logits.
//
// What a layer queues up to its routing depends on nothing but the number of tokens: where they stand lies in
// device memory. So for small batches it is captured once and launched from then on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/device_setup.h"
#include "engine/device_weights.h"
#include "engine/forward.h"
#include "engine/hybrid_experts.h"
#include "engine/workspace.h"
#include "plan/memory_plan.h"

namespace fiddler {

// What a forward pass on a device takes, on both sides: all that PlanMemory (plan/memory_plan.h) wants to
// know. The ring of the expert store counts as device workspace.
MemoryNeeds DeviceMemoryNeeds(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                              const ForwardLimits& limits);

class DeviceForward final : public Forward {
 public:
  // All references must outlive this object. Throws Error if memory is short on either side, naming what
  // would fit.
  DeviceForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                const ForwardLimits& limits, const DeviceSetup& setup);
  DeviceForward(const DeviceForward&) = delete;
  DeviceForward& operator=(const DeviceForward&) = delete;
  ~DeviceForward() override;

  void Run(std::span<const BatchEntry> batch) override;
  std::span<float> Logits(std::span<const int32_t> rows) override;
  void Observe(RoutingObserver observer) override { experts_->Observe(std::move(observer)); }

  void ObserveLoads(const LoadObserver& observer) override { experts_->ObserveLoads(observer); }

  const ExpertTraffic* traffic() const override { return &experts_->traffic(); }
  const Residency& residency() { return store_->residency(); }

 private:
  struct Buffers {
    FiddlerAddress hidden = 0;    // [tokens, hidden]: the residual stream
    FiddlerAddress normed = 0;    // [tokens, hidden]
    FiddlerAddress branch = 0;    // [tokens, hidden]: what a half-layer adds
    FiddlerAddress q = 0;         // [tokens, q_width]
    FiddlerAddress k = 0;         // [tokens, kv_width]
    FiddlerAddress v = 0;         // [tokens, kv_width]
    FiddlerAddress attended = 0;  // [tokens, q_width]
    FiddlerAddress logits = 0;    // [logit_rows, vocab_size]
    FiddlerAddress rows = 0;      // int32 [logit_rows]
    FiddlerAddress positions = 0;
    FiddlerAddress sequences = 0;
    FiddlerAddress block_tables = 0;
    FiddlerAddress scratch = 0;
    HybridExperts::Buffers experts;
  };
  friend MemoryNeeds DeviceMemoryNeeds(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                       const ForwardLimits& limits);
  static uint64_t StagingBytes(const PackedModel& model, const ForwardLimits& limits);
  static Buffers TakeBuffers(const PackedModel& model, const ForwardLimits& limits, DeviceArena& arena);

  void Upload(std::span<const BatchEntry> batch);
  void QueueLayer(int64_t index, int64_t tokens);  // up to its routing, captured where that pays
  void QueueUpToRouting(int64_t index, int64_t tokens);
  FiddlerSegment CaptureUpToRouting(int64_t index, int64_t tokens);
  void QueueAttention(int64_t index, int64_t tokens);
  void QueueDenseFfn(int64_t index, int64_t tokens);
  void QueueNorm(int64_t tokens, FiddlerAddress weight, FiddlerAddress y);
  void QueueProduct(int64_t tokens, FiddlerAddress x, const FiddlerMatrix& w, FiddlerAddress bias,
                    FiddlerAddress y);
  void QueueAddBranch(int64_t tokens);
  FiddlerBatch BatchOf(int64_t tokens) const;
  FiddlerKv KvOf(int64_t index) const;

  const PackedModel& model_;
  const ForwardLimits limits_;
  Device& device_;
  const FiddlerStream stream_;
  Workspace workspace_;
  ParallelOps ops_;
  DeviceArena arena_;
  DeviceWeights weights_;
  FiddlerAddress kv_ = 0;
  Buffers buffers_;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<ExpertStore> store_;
  std::unique_ptr<HybridExperts> experts_;

  PinnedBuffer staging_;
  float* embedded_;        // [tokens, hidden]
  float* host_logits_;     // [logit_rows, vocab_size]
  int32_t* host_rows_;     // [logit_rows]
  int32_t* positions_;     // [tokens]
  int32_t* sequences_;     // [tokens]
  int32_t* block_tables_;  // [sequences, table_stride]

  std::map<std::pair<int64_t, int64_t>, std::optional<FiddlerSegment>> segments_;  // by tokens and layer
};

}  // namespace fiddler
