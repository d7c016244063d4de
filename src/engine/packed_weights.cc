#include "engine/packed_weights.h"

namespace fiddler {

uint64_t DenseBytes(const PackedWeights& weights) {
  uint64_t bytes = weights.head.bytes();
  for (const PackedLayer& layer : weights.layers) {
    for (const PackedMatrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.router, &layer.shared_router}) {
      bytes += matrix->bytes();
    }
    bytes += layer.dense.bytes() + layer.shared.bytes();
  }
  return bytes;
}

uint64_t ExpertBytes(const PackedWeights& weights) {
  uint64_t bytes = 0;
  for (const PackedLayer& layer : weights.layers) {
    for (const SlicedFfn& expert : layer.experts) bytes += expert.bytes();
  }
  return bytes;
}

ExpertLayers ExpertLayersOf(const PackedWeights& weights) {
  ExpertLayers layers;
  for (const PackedLayer& layer : weights.layers) layers.emplace_back(layer.experts);
  return layers;
}

const SlicedFfn& TypicalFfn(const PackedWeights& weights) {
  for (const PackedLayer& layer : weights.layers) {
    if (!layer.experts.empty()) return layer.experts.front();
  }
  return weights.layers.front().dense;
}

uint64_t TotalBytes(const PackedWeights& weights) {
  const uint64_t embedding = weights.head_is_embedding ? 0 : weights.embedding.bytes();
  return DenseBytes(weights) + ExpertBytes(weights) + embedding;
}

}  // namespace fiddler
