#include "engine/ffn.h"

#include <algorithm>
#include <cmath>

namespace fiddler {
namespace {

int64_t MaxSlots(const MoeSpec& moe, int64_t max_batch_tokens) {
  const int64_t shared = moe.shared_intermediate > 0 ? 1 : 0;
  return max_batch_tokens * std::max<int64_t>(1, moe.top_k + shared);
}

}  // namespace

SlicedFfnLimits FfnLimitsOf(const PackedModel& model, int64_t max_batch_tokens) {
  const ModelSpec& spec = model.spec;
  SlicedFfnLimits limits = {
      .hidden = spec.hidden, .tokens = max_batch_tokens, .slots = MaxSlots(spec.moe, max_batch_tokens)};
  for (const PackedLayer& layer : model.weights.layers) {
    const SlicedFfn expert = layer.experts.empty() ? SlicedFfn{} : layer.experts.front();
    limits.slice_neurons = std::max(
        {limits.slice_neurons, expert.slice_neurons, layer.dense.slice_neurons, layer.shared.slice_neurons});
    const auto neurons = [](const SlicedFfn& ffn) { return ffn.intermediate > 0 ? ffn.padded_neurons() : 0; };
    const int64_t of_token = spec.moe.top_k * neurons(expert) + neurons(layer.shared);
    limits.slot_neurons =
        std::max({limits.slot_neurons, max_batch_tokens * of_token, max_batch_tokens * neurons(layer.dense)});
  }
  return limits;
}

Ffn::Ffn(const PackedModel& model, const ParallelOps& ops, int64_t max_batch_tokens, Workspace& workspace)
    : spec_(model.spec),
      ops_(ops),
      host_experts_(*model.host_experts),
      groups_(max_batch_tokens * spec_.moe.top_k, spec_.moe.num_experts),
      runner_(FfnLimitsOf(model, max_batch_tokens), ops, workspace),
      experts_(static_cast<size_t>(max_batch_tokens * spec_.moe.top_k)),
      weights_(static_cast<size_t>(max_batch_tokens * spec_.moe.top_k)),
      slot_weights_(weights_.size()),
      router_logits_(workspace.Floats(max_batch_tokens * spec_.moe.num_experts)),
      shared_gate_(workspace.Floats(max_batch_tokens)) {
  needs_.reserve(static_cast<size_t>(spec_.moe.num_experts));
  passes_.reserve(static_cast<size_t>(spec_.moe.num_experts + 1));
}

void Ffn::Run(int64_t layer, const PackedLayer& weights, int64_t tokens, const float* x, float* out) {
  if (spec_.layers[static_cast<size_t>(layer)].is_moe) return RunMoe(layer, weights, tokens, x, out);
  const FfnPass all = {.ffn = &weights.dense, .tokens = tokens};
  runner_.Run({&all, 1}, tokens, x, out);
}

void Ffn::RunMoe(int64_t layer, const PackedLayer& weights, int64_t tokens, const float* x, float* out) {
  const int64_t top_k = spec_.moe.top_k;
  Route(layer, weights.router, tokens, x);
  groups_.Build({experts_.data(), static_cast<size_t>(tokens * top_k)}, top_k);
  groups_.BySlot({weights_.data(), static_cast<size_t>(tokens * top_k)}, slot_weights_);
  needs_.clear();
  passes_.clear();
  for (const ExpertGroups::Group& group : groups_.groups()) {
    needs_.push_back({.expert = group.expert, .tokens = group.tokens});
    passes_.push_back({.tokens = group.tokens,
                       .token_index = groups_.token_of_slot() + group.first_slot,
                       .weights = slot_weights_.data() + group.first_slot});
  }
  if (weights.shared.data != nullptr) {
    GateShared(weights.shared_router, tokens, x);
    passes_.push_back({.ffn = &weights.shared, .tokens = tokens, .weights = shared_gate_});
  }
  RunExperts(layer, tokens, x, out);
}

// A token's experts are added in the order of their numbers, whatever else is in the batch and in however
// many runs: with all experts in memory it is one, with some on disk every run takes those that are there, up
// to the first that is not.
void Ffn::RunExperts(int64_t layer, int64_t tokens, const float* x, float* out) {
  host_experts_.Request(layer, tokens, needs_);
  for (size_t begin = 0; begin < needs_.size();) {
    size_t end = begin;
    do {
      passes_[end].ffn = &host_experts_.Wait(end);
      ++end;
    } while (end < needs_.size() && host_experts_.Ready(end));
    const size_t end_of_run = end < needs_.size() ? end : passes_.size();
    runner_.Run(std::span(passes_).subspan(begin, end_of_run - begin), tokens, x, out,
                begin == 0 ? SlicedFfnRunner::Out::kSet : SlicedFfnRunner::Out::kAddTo);
    for (; begin < end; ++begin) host_experts_.Release(begin);
  }
}

void Ffn::Route(int64_t layer, const PackedMatrix& router, int64_t tokens, const float* x) {
  const auto num_experts = static_cast<size_t>(spec_.moe.num_experts);
  const auto top_k = static_cast<size_t>(spec_.moe.top_k);
  const Product product = {.w = router, .y = router_logits_};
  ops_.MatMul({.tokens = tokens, .x = x, .stride = spec_.hidden}, {&product, 1});
  ops_.ForEachToken(tokens, [&](int64_t t) {
    const auto token = static_cast<size_t>(t);
    RouteToken(spec_.moe, {router_logits_ + token * num_experts, num_experts},
               {experts_.data() + token * top_k, top_k}, {weights_.data() + token * top_k, top_k});
  });
  if (observer_) {
    const size_t assignments = static_cast<size_t>(tokens) * top_k;
    observer_({.layer = layer,
               .top_k = spec_.moe.top_k,
               .experts = {experts_.data(), assignments},
               .weights = {weights_.data(), assignments}});
  }
}

void Ffn::GateShared(const PackedMatrix& router, int64_t tokens, const float* x) {
  const Product product = {.w = router, .y = shared_gate_};
  ops_.MatMul({.tokens = tokens, .x = x, .stride = spec_.hidden}, {&product, 1});
  for (int64_t t = 0; t < tokens; ++t) shared_gate_[t] = 1.0f / (1.0f + std::exp(-shared_gate_[t]));
}

}  // namespace fiddler
