#include "cli/simulated_model.h"

#include "base/error.h"

namespace fiddler {
namespace {

constexpr double kKvElementBytes = 2;  // BF16

struct Work {
  double bytes = 0;
  double flops = 0;  // of a token

  void Add(const PackedMatrix& matrix) {
    bytes += static_cast<double>(matrix.bytes());
    flops += 2 * static_cast<double>(matrix.rows * matrix.cols);
  }
  void Add(const SlicedFfn& ffn) {
    bytes += static_cast<double>(ffn.bytes());
    if (ffn.intermediate > 0) flops += 6 * static_cast<double>(ffn.padded_neurons() * ffn.hidden);
  }
};

double KvBytes(const ModelSpec& spec) {
  return 2 * static_cast<double>(spec.attention.kv_width()) * kKvElementBytes;
}

}  // namespace

SimulatedModel DescribeForSimulation(const Model& model, const PackedWeights& weights) {
  const ModelSpec& spec = model.spec();
  if (spec.moe.num_experts == 0) {
    throw Error("{}: expected a model with experts, got none: there is nothing to decide", model.config.name);
  }
  SimulatedModel simulated;
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const PackedLayer& layer = weights.layers[i];
    Work work;
    for (const PackedMatrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.router, &layer.shared_router})
      work.Add(*matrix);
    work.Add(layer.dense);
    work.Add(layer.shared);
    simulated.layers.push_back({.is_moe = spec.layers[i].is_moe,
                                .dense_bytes = work.bytes,
                                .dense_flops = work.flops,
                                .window = spec.layers[i].sliding_window});
  }
  Work head;
  head.Add(weights.head);
  const SlicedFfn& expert = TypicalFfn(weights);
  simulated.num_experts = spec.moe.num_experts;
  simulated.top_k = spec.moe.top_k;
  simulated.num_slices = expert.num_slices();
  simulated.slice = {.bytes = static_cast<double>(expert.slice_bytes()),
                     .flops_per_token = 6 * static_cast<double>(expert.slice_neurons * expert.hidden)};
  simulated.head_bytes = head.bytes;
  simulated.head_flops = head.flops;
  simulated.kv_bytes_per_position = KvBytes(spec);
  // Scores and sums of values.
  simulated.attention_flops_per_position = 4 * static_cast<double>(spec.attention.q_width());
  return simulated;
}

MemoryNeeds EstimateMemoryNeeds(const Model& model, const PackedWeights& weights, int64_t positions,
                                int64_t chunk_tokens, bool has_gpu) {
  constexpr uint64_t kLibraries = uint64_t{400} << 20;  // a CUDA context with its kernels
  constexpr int64_t kTransitSlots = 4;
  constexpr int64_t kActivations = 16;  // float32 vectors as wide as the model that a token of a chunk needs
  const ModelSpec& spec = model.spec();
  const SlicedFfn& expert = TypicalFfn(weights);
  const uint64_t kv =
      static_cast<uint64_t>(KvBytes(spec)) * static_cast<uint64_t>(positions * spec.num_layers());
  const uint64_t workspace =
      static_cast<uint64_t>(chunk_tokens * (kActivations + spec.moe.top_k) * spec.hidden) * sizeof(float);
  int64_t slices = 0;
  for (const PackedLayer& layer : weights.layers) slices += std::ssize(layer.experts) * expert.num_slices();
  MemoryNeeds needs = {.device_dense_bytes = DenseBytes(weights),
                       .kv_bytes = kv,
                       .device_workspace_bytes = workspace + kLibraries,
                       .transit_slots = kTransitSlots,
                       .slice_bytes = static_cast<uint64_t>(expert.slice_bytes()),
                       .num_expert_slices = slices,
                       .host_weight_bytes = TotalBytes(weights),
                       .host_workspace_bytes = workspace};
  if (has_gpu) {
    needs.host_weight_bytes -= DenseBytes(weights);
    if (weights.head_is_embedding) needs.host_weight_bytes += weights.embedding.bytes();  // on both sides
  } else {
    needs.host_workspace_bytes += kv;
  }
  return needs;
}

}  // namespace fiddler
