#include "engine/ffn.h"

#include <algorithm>
#include <cmath>

namespace fiddler {
namespace {

// Rows and neurons enough for every kind of pass the model has: each token through top_k experts, or through
// one shared expert or dense FFN.
int64_t MaxSlots(const ModelSpec& spec, int64_t max_batch_tokens) {
  return max_batch_tokens * std::max<int64_t>(1, spec.moe.top_k);
}

int64_t MaxActivations(const ModelSpec& spec, int64_t max_batch_tokens) {
  return std::max(MaxSlots(spec, max_batch_tokens) * spec.moe.intermediate,
                  max_batch_tokens * std::max(spec.moe.shared_intermediate, spec.dense_intermediate));
}

}  // namespace

Ffn::Ffn(const ModelSpec& spec, const ParallelOps& ops, int64_t max_batch_tokens, Workspace& workspace)
    : spec_(spec),
      ops_(ops),
      groups_(MaxSlots(spec, max_batch_tokens), spec.moe.num_experts),
      experts_(static_cast<size_t>(max_batch_tokens * spec.moe.top_k)),
      weights_(static_cast<size_t>(max_batch_tokens * spec.moe.top_k)),
      router_logits_(workspace.Floats(max_batch_tokens * spec.moe.num_experts)),
      gate_(workspace.Floats(MaxActivations(spec, max_batch_tokens))),
      up_(workspace.Floats(MaxActivations(spec, max_batch_tokens))),
      down_(workspace.Floats(MaxSlots(spec, max_batch_tokens) * spec.hidden)),
      shared_gate_(workspace.Floats(max_batch_tokens)) {
  passes_.reserve(static_cast<size_t>(spec.moe.num_experts));
}

void Ffn::Run(int64_t layer, const LayerWeights& weights, int64_t tokens, const float* x, float* out) {
  if (spec_.layers[static_cast<size_t>(layer)].is_moe) {
    RunMoe(layer, weights, tokens, x, out);
    if (spec_.moe.shared_intermediate > 0) AddShared(weights, tokens, x, out);
  } else {
    const Pass all = {.ffn = &weights.dense, .first_slot = 0, .tokens = tokens, .token_index = nullptr};
    RunPasses({&all, 1}, x);
    std::copy_n(down_, tokens * spec_.hidden, out);
  }
}

void Ffn::RunMoe(int64_t layer, const LayerWeights& weights, int64_t tokens, const float* x, float* out) {
  const int64_t top_k = spec_.moe.top_k;
  Route(layer, weights.router, tokens, x);
  groups_.Build({experts_.data(), static_cast<size_t>(tokens * top_k)}, top_k);
  passes_.clear();
  for (const ExpertGroups::Group& group : groups_.groups()) {
    passes_.push_back({.ffn = &weights.experts[static_cast<size_t>(group.expert)],
                       .first_slot = group.first_slot,
                       .tokens = group.tokens,
                       .token_index = groups_.token_of_slot() + group.first_slot});
  }
  RunPasses(passes_, x);
  // A token's experts are added in the order of its choices, whatever else is in the batch.
  ops_.ForEachToken(tokens, [&](int64_t t) {
    float* sum = out + t * spec_.hidden;
    std::fill_n(sum, spec_.hidden, 0.0f);
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const float* expert_out = down_ + groups_.SlotOf(i) * spec_.hidden;
      ops_.kernels().scaled_add(spec_.hidden, weights_[static_cast<size_t>(i)], expert_out, sum);
    }
  });
}

void Ffn::Route(int64_t layer, const MatrixView& router, int64_t tokens, const float* x) {
  const auto num_experts = static_cast<size_t>(spec_.moe.num_experts);
  const auto top_k = static_cast<size_t>(spec_.moe.top_k);
  const MatMulArgs product = {.w = router,
                              .tokens = tokens,
                              .x = x,
                              .x_stride = spec_.hidden,
                              .y = router_logits_,
                              .y_stride = spec_.moe.num_experts};
  ops_.MatMul({&product, 1});
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

void Ffn::AddShared(const LayerWeights& weights, int64_t tokens, const float* x, float* out) {
  const MatMulArgs product = {.w = weights.shared_router,
                              .tokens = tokens,
                              .x = x,
                              .x_stride = spec_.hidden,
                              .y = shared_gate_,
                              .y_stride = 1};
  ops_.MatMul({&product, 1});
  const Pass all = {.ffn = &weights.shared, .first_slot = 0, .tokens = tokens, .token_index = nullptr};
  RunPasses({&all, 1}, x);
  ops_.ForEachToken(tokens, [&](int64_t t) {
    const float gate = 1.0f / (1.0f + std::exp(-shared_gate_[t]));
    ops_.kernels().scaled_add(spec_.hidden, gate, down_ + t * spec_.hidden, out + t * spec_.hidden);
  });
}

void Ffn::RunPasses(std::span<const Pass> passes, const float* x) {
  const int64_t neurons = passes.front().ffn->gate.rows;
  const int64_t hidden = spec_.hidden;
  const CpuKernels& kernels = ops_.kernels();
  const auto num_passes = static_cast<int64_t>(passes.size());

  const int64_t neuron_tasks = ParallelOps::NumRowTasks(neurons);
  ops_.pool().ParallelFor(num_passes * neuron_tasks, [&](int64_t task, int) {
    const Pass& pass = passes[static_cast<size_t>(task / neuron_tasks)];
    const int64_t begin = task % neuron_tasks * ParallelOps::kRowsPerTask;
    const int64_t end = std::min(begin + ParallelOps::kRowsPerTask, neurons);
    MatMulArgs product = {.w = pass.ffn->gate,
                          .row_begin = begin,
                          .row_end = end,
                          .tokens = pass.tokens,
                          .x = x,
                          .x_stride = hidden,
                          .row_index = pass.token_index,
                          .y = gate_ + pass.first_slot * neurons,
                          .y_stride = neurons};
    kernels.mat_mul(product);
    product.w = pass.ffn->up;
    product.y = up_ + pass.first_slot * neurons;
    kernels.mat_mul(product);
    for (int64_t slot = pass.first_slot; slot < pass.first_slot + pass.tokens; ++slot) {
      float* gate = gate_ + slot * neurons + begin;
      kernels.silu_mul(end - begin, gate, up_ + slot * neurons + begin, gate);
    }
  });

  const int64_t output_tasks = ParallelOps::NumRowTasks(hidden);
  ops_.pool().ParallelFor(num_passes * output_tasks, [&](int64_t task, int) {
    const Pass& pass = passes[static_cast<size_t>(task / output_tasks)];
    const int64_t begin = task % output_tasks * ParallelOps::kRowsPerTask;
    kernels.mat_mul({.w = pass.ffn->down,
                     .row_begin = begin,
                     .row_end = std::min(begin + ParallelOps::kRowsPerTask, hidden),
                     .tokens = pass.tokens,
                     .x = gate_ + pass.first_slot * neurons,
                     .x_stride = neurons,
                     .y = down_ + pass.first_slot * hidden,
                     .y_stride = hidden});
  });
}

}  // namespace fiddler
