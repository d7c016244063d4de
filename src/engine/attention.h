// The attention half of a layer: project, norm, rotate, store in the KV cache, attend, project back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "engine/packed_weights.h"
#include "engine/parallel_attend.h"
#include "engine/parallel_ops.h"
#include "engine/rope_table.h"
#include "engine/workspace.h"
#include "kv/kv_cache.h"
#include "model/spec.h"

namespace fiddler {

class Attention {
 public:
  // All references must outlive this object.
  Attention(const ModelSpec& spec, const ParallelOps& ops, KvCache& cache, int64_t max_positions,
            int64_t max_batch_tokens, Workspace& workspace);

  // x: normed hidden states of the batch [tokens, hidden]; out: [tokens, hidden].
  void Run(int64_t layer, const PackedLayer& weights, std::span<const BatchEntry> batch, const float* x,
           float* out);

 private:
  // Consecutive tokens of one sequence that one task prepares: none of them shares cells of the KV cache with
  // a token of another.
  struct Stretch {
    const BatchEntry* entry;
    int64_t row;     // of its first token in the batch
    int64_t offset;  // of that token in the entry
    int64_t tokens;
  };

  void Project(const PackedLayer& weights, int64_t tokens, const float* x);
  void NormRotateStore(int64_t layer, const PackedLayer& weights, std::span<const BatchEntry> batch);
  void NormRotate(const PackedLayer& weights, int64_t row, int64_t position);

  const ModelSpec& spec_;
  const ParallelOps& ops_;
  KvCache& cache_;
  RopeTable rope_;
  float* q_;         // [max_batch_tokens, q_width]
  float* k_;         // [max_batch_tokens, kv_width]
  float* v_;         // [max_batch_tokens, kv_width]
  float* attended_;  // [max_batch_tokens, q_width]
  std::vector<Stretch> stretches_;
  ParallelAttend attend_;
};

}  // namespace fiddler
