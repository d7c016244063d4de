// The weights of a model as the kernels read them: packed into panels (kernels/packed_matrix.h) and slices
// (experts/slice.h), all in one run of huge pages; routed experts there too, or in a file and, some of them,
// in slots (experts/host_experts.h). Written once, by PackModel (engine/pack_model.h); immutable from then
// on, so that every thread may read them, but for the slots, which belong to the thread that runs the model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/memory.h"
#include "experts/host_experts.h"
#include "experts/slice.h"
#include "kernels/packed_matrix.h"
#include "model/spec.h"

namespace fiddler {

struct PackedLayer {
  std::vector<float> attention_norm;  // [hidden]
  PackedMatrix q;                     // [num_heads * head_dim, hidden]; k and v lie right behind it
  PackedMatrix k;                     // [num_kv_heads * head_dim, hidden]
  PackedMatrix v;                     // [num_kv_heads * head_dim, hidden]
  PackedMatrix o;                     // [hidden, num_heads * head_dim]
  std::vector<float> q_bias;          // as long as the rows of q, or empty; so are the next three
  std::vector<float> k_bias;
  std::vector<float> v_bias;
  std::vector<float> o_bias;
  std::vector<float> q_norm;  // [head_dim] or [num_heads * head_dim], by QkNorm; or empty
  std::vector<float> k_norm;

  std::vector<float> ffn_norm;     // [hidden]
  SlicedFfn dense;                 // where the layer is not MoE
  PackedMatrix router;             // [num_experts, hidden], F32: experts are chosen in float32
  std::vector<SlicedFfn> experts;  // [num_experts], all of the same geometry; without data if in a file
  SlicedFfn shared;                // the expert every token passes, where the model has one
  PackedMatrix shared_router;      // [1, hidden], F32
};

struct PackedWeights {
  PackedMatrix embedding;          // [vocab_size, hidden]
  std::vector<float> final_norm;   // [hidden]
  PackedMatrix head;               // [vocab_size, hidden]
  bool head_is_embedding = false;  // one matrix in memory: tied and of one format
  std::vector<PackedLayer> layers;
};

// Bytes of the matrices that every token passes: everything but the embedding and the routed experts.
uint64_t DenseBytes(const PackedWeights& weights);
// Bytes of all routed experts.
uint64_t ExpertBytes(const PackedWeights& weights);
// Bytes of all matrices.
uint64_t TotalBytes(const PackedWeights& weights);

// An expert of the first layer that has some; of a model without experts, its first FFN.
const SlicedFfn& TypicalFfn(const PackedWeights& weights);

// What an engine runs.
struct PackedModel {
  ModelSpec spec;
  PackedWeights weights;  // looks into memory
  HugePageBuffer memory;
  std::unique_ptr<HostExperts> host_experts;  // looks into weights; engines find experts only here
};

// The experts of every layer, for HostExperts; valid until the weights go.
ExpertLayers ExpertLayersOf(const PackedWeights& weights);

}  // namespace fiddler
