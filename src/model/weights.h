// Where the weights of a model lie: found by name, checked for type and shape, sorted by role. Matrices stay
// in the WeightSource until they are packed (engine/pack_model.h); the few small vectors are widened to
// float32 and kept here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/weight_source.h"
#include "model/architecture.h"
#include "model/spec.h"

namespace fiddler {

// A row-major matrix in a source: a tensor, or some consecutive rows of one. Rows count over all dimensions
// of the tensor but the last.
struct StoredMatrix {
  TensorInfo tensor;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t cols = 0;

  DType dtype() const { return tensor.dtype; }
  uint64_t row_bytes() const { return static_cast<uint64_t>(cols) * DTypeBytes(dtype()); }
  uint64_t bytes() const { return static_cast<uint64_t>(rows) * row_bytes(); }
  uint64_t OffsetOf(int64_t row) const { return static_cast<uint64_t>(first_row + row) * row_bytes(); }
};

// A gated feed-forward network: down(silu(gate x) * (up x)).
struct FfnWeights {
  StoredMatrix gate;  // [intermediate, hidden]
  StoredMatrix up;    // [intermediate, hidden]
  StoredMatrix down;  // [hidden, intermediate]
};

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  StoredMatrix q;                     // [num_heads * head_dim, hidden]
  StoredMatrix k;                     // [num_kv_heads * head_dim, hidden]
  StoredMatrix v;                     // [num_kv_heads * head_dim, hidden]
  StoredMatrix o;                     // [hidden, num_heads * head_dim]
  std::vector<float> q_bias;          // as long as the rows of q, or empty; so are the next three
  std::vector<float> k_bias;
  std::vector<float> v_bias;
  std::vector<float> o_bias;
  std::vector<float> q_norm;  // [head_dim] or [num_heads * head_dim], by QkNorm; or empty
  std::vector<float> k_norm;

  std::vector<float> ffn_norm;      // [hidden]
  FfnWeights dense;                 // where the layer is not MoE
  StoredMatrix router;              // [num_experts, hidden]
  std::vector<FfnWeights> experts;  // [num_experts]
  FfnWeights shared;                // the expert every token passes, where the model has one
  StoredMatrix shared_router;       // [1, hidden]
};

struct ModelWeights {
  StoredMatrix embedding;         // [vocab_size, hidden]
  std::vector<float> final_norm;  // [hidden]
  StoredMatrix head;              // [vocab_size, hidden]
  std::vector<LayerWeights> layers;
};

// Throws Error naming file, tensor, expected and got for whatever is missing or of the wrong shape or type.
ModelWeights FindWeights(const ModelSpec& spec, const TensorNames& names, const WeightSource& source);

}  // namespace fiddler
