#include "cli/simulated_model.h"

#include <algorithm>

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
  if (std::ranges::none_of(spec.layers, &LayerSpec::is_moe)) {
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

}  // namespace fiddler
