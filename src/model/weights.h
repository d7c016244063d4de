// The weights of a model, found by name, checked for shape, laid out by role. Matrices are views into the
// WeightSource (zero-copy); the few small vectors are widened to float32 and owned here. Immutable after
// load.
#pragma once

#include <vector>

#include "io/weight_source.h"
#include "kernels/ops.h"
#include "model/architecture.h"
#include "model/spec.h"

namespace fiddler {

// A gated feed-forward network: down(silu(gate x) * (up x)).
struct FfnWeights {
  MatrixView gate;  // [intermediate, hidden]
  MatrixView up;    // [intermediate, hidden]
  MatrixView down;  // [hidden, intermediate]
};

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  MatrixView q;                       // [num_heads * head_dim, hidden]
  MatrixView k;                       // [num_kv_heads * head_dim, hidden]
  MatrixView v;                       // [num_kv_heads * head_dim, hidden]
  MatrixView o;                       // [hidden, num_heads * head_dim]
  std::vector<float> q_bias;          // as long as the rows of q, or empty; so are the next three
  std::vector<float> k_bias;
  std::vector<float> v_bias;
  std::vector<float> o_bias;
  std::vector<float> q_norm;  // [head_dim] or [num_heads * head_dim], by QkNorm; or empty
  std::vector<float> k_norm;

  std::vector<float> ffn_norm;      // [hidden]
  FfnWeights dense;                 // where the layer is not MoE
  MatrixView router;                // [num_experts, hidden]
  std::vector<FfnWeights> experts;  // [num_experts]
  FfnWeights shared;                // the expert every token passes, where the model has one
  MatrixView shared_router;         // [1, hidden]
};

struct ModelWeights {
  MatrixView embedding;           // [vocab_size, hidden]
  std::vector<float> final_norm;  // [hidden]
  MatrixView head;                // [vocab_size, hidden]
  std::vector<LayerWeights> layers;
};

// Bytes of matrices as they are stored.
uint64_t Bytes(const FfnWeights& ffn);
// All that every token passes: everything but the embedding and the routed experts.
uint64_t DenseBytes(const ModelWeights& weights);
// Everything.
uint64_t TotalBytes(const ModelWeights& weights);

// Throws Error naming file, tensor, expected and got for whatever is missing or of the wrong shape or type.
ModelWeights LoadWeights(const ModelSpec& spec, const TensorNames& names, WeightSource& source);

}  // namespace fiddler
