// The feed-forward half of a layer: a dense FFN, or routed experts (and, in some models, one shared by all
// tokens).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/packed_weights.h"
#include "engine/parallel_ops.h"
#include "engine/router.h"
#include "engine/sliced_ffn.h"
#include "engine/workspace.h"
#include "model/spec.h"

namespace fiddler {

// What the router of one layer chose for the tokens of a batch, in batch order.
struct Routing {
  int64_t layer;
  int64_t top_k;
  std::span<const int32_t> experts;  // [tokens, top_k], highest weight first
  std::span<const float> weights;    // [tokens, top_k], what expert outputs are multiplied with
};
using RoutingObserver = std::function<void(const Routing&)>;

// Room for the largest run of any layer: each token through top_k experts and a shared one, or a dense FFN.
SlicedFfnLimits FfnLimitsOf(const PackedModel& model, int64_t max_batch_tokens);

class Ffn {
 public:
  // All references must outlive this object.
  Ffn(const PackedModel& model, const ParallelOps& ops, int64_t max_batch_tokens, Workspace& workspace);

  // x: normed hidden states [tokens, hidden]; out: [tokens, hidden].
  void Run(int64_t layer, const PackedLayer& weights, int64_t tokens, const float* x, float* out);

  // Called after every router on the thread that calls Run.
  void Observe(RoutingObserver observer) { observer_ = std::move(observer); }

 private:
  void RunMoe(int64_t layer, const PackedLayer& weights, int64_t tokens, const float* x, float* out);
  void Route(int64_t layer, const PackedMatrix& router, int64_t tokens, const float* x);
  // Gates the expert that every token passes.
  void GateShared(const PackedMatrix& router, int64_t tokens, const float* x);

  const ModelSpec& spec_;
  const ParallelOps& ops_;
  RoutingObserver observer_;
  ExpertGroups groups_;
  SlicedFfnRunner runner_;
  std::vector<FfnPass> passes_;      // of the current layer
  std::vector<int32_t> experts_;     // [max_batch_tokens, top_k]
  std::vector<float> weights_;       // [max_batch_tokens, top_k]
  std::vector<float> slot_weights_;  // [max_batch_tokens * top_k], weights_ by slot
  float* router_logits_;             // [max_batch_tokens, num_experts]
  float* shared_gate_;               // [max_batch_tokens, 1]
};

}  // namespace fiddler
