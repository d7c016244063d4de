// The feed-forward half of a layer: a dense FFN, or routed experts (and, in some models, one shared by all
// tokens).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/parallel_ops.h"
#include "engine/router.h"
#include "engine/workspace.h"
#include "model/spec.h"
#include "model/weights.h"

namespace fiddler {

// What the router of one layer chose for the tokens of a batch, in batch order.
struct Routing {
  int64_t layer;
  int64_t top_k;
  std::span<const int32_t> experts;  // [tokens, top_k], highest weight first
  std::span<const float> weights;    // [tokens, top_k], what expert outputs are multiplied with
};
using RoutingObserver = std::function<void(const Routing&)>;

class Ffn {
 public:
  // All references must outlive this object.
  Ffn(const ModelSpec& spec, const ParallelOps& ops, int64_t max_batch_tokens, Workspace& workspace);

  // x: normed hidden states [tokens, hidden]; out: [tokens, hidden].
  void Run(int64_t layer, const LayerWeights& weights, int64_t tokens, const float* x, float* out);

  // Called after every router on the thread that calls Run.
  void Observe(RoutingObserver observer) { observer_ = std::move(observer); }

 private:
  // One FFN and the slots (rows of gate_, up_ and down_) of the tokens that pass it.
  struct Pass {
    const FfnWeights* ffn;
    int64_t first_slot;
    int64_t tokens;
    const int32_t* token_index;  // row of x for each token, or null: row t
  };

  void RunMoe(int64_t layer, const LayerWeights& weights, int64_t tokens, const float* x, float* out);
  void AddShared(const LayerWeights& weights, int64_t tokens, const float* x, float* out);
  void Route(int64_t layer, const MatrixView& router, int64_t tokens, const float* x);
  // down(silu(gate x) * (up x)) of every pass, into down_; all passes have the same number of neurons.
  void RunPasses(std::span<const Pass> passes, const float* x);

  const ModelSpec& spec_;
  const ParallelOps& ops_;
  RoutingObserver observer_;
  ExpertGroups groups_;
  std::vector<Pass> passes_;      // one for each expert with tokens
  std::vector<int32_t> experts_;  // [max_batch_tokens, top_k]
  std::vector<float> weights_;    // [max_batch_tokens, top_k]
  float* router_logits_;          // [max_batch_tokens, num_experts]
  float* gate_;                   // [slots, neurons]; then the activations
  float* up_;                     // [slots, neurons]
  float* down_;                   // [slots, hidden]
  float* shared_gate_;            // [max_batch_tokens, 1]
};

}  // namespace fiddler
