#include "model/weights.h"

#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

StoredMatrix AsMatrix(TensorInfo tensor, int64_t rows, int64_t cols) {
  return {.tensor = std::move(tensor), .first_row = 0, .rows = rows, .cols = cols};
}

// `count` rows of a matrix, from `begin`.
StoredMatrix Rows(const StoredMatrix& matrix, int64_t begin, int64_t count) {
  return {.tensor = matrix.tensor, .first_row = matrix.first_row + begin, .rows = count, .cols = matrix.cols};
}

template <typename T>
std::vector<float> Widen(const WeightSource& source, const TensorInfo& tensor, size_t size) {
  std::vector<T> values(size);
  source.Read(tensor, 0, std::as_writable_bytes(std::span(values)));
  std::vector<float> floats(size);
  for (size_t i = 0; i < size; ++i) floats[i] = ToFloat(values[i]);
  return floats;
}

class Finder {
 public:
  Finder(const ModelSpec& spec, const TensorNames& names, const WeightSource& source)
      : spec_(spec), names_(names), source_(source) {}

  ModelWeights Find() {
    ModelWeights weights;
    weights.embedding = Matrix(names_.embedding, spec_.vocab_size, spec_.hidden);
    for (layer_ = 0; layer_ < spec_.num_layers(); ++layer_) weights.layers.push_back(Layer());
    weights.final_norm = Vector(names_.final_norm, spec_.hidden);
    weights.head =
        spec_.tied_embeddings ? weights.embedding : Matrix(names_.head, spec_.vocab_size, spec_.hidden);
    return weights;
  }

 private:
  StoredMatrix Matrix(std::string_view pattern, int64_t rows, int64_t cols, int64_t expert = 0) {
    return AsMatrix(source_.Require(TensorName(pattern, layer_, expert), {rows, cols}), rows, cols);
  }

  std::vector<float> Vector(std::string_view pattern, int64_t size) {
    const TensorInfo tensor = source_.Require(TensorName(pattern, layer_), {size});
    switch (tensor.dtype) {
      case DType::kF32:
        return Widen<float>(source_, tensor, static_cast<size_t>(size));
      case DType::kF16:
        return Widen<F16>(source_, tensor, static_cast<size_t>(size));
      case DType::kBF16:
        return Widen<BF16>(source_, tensor, static_cast<size_t>(size));
      default:
        CHECK(false, "{} of type {}", tensor.name, DTypeName(tensor.dtype));
    }
  }

  FfnWeights Ffn(std::string_view gate, std::string_view up, std::string_view down, int64_t intermediate,
                 int64_t expert = 0) {
    FfnWeights ffn = {.gate = Matrix(gate, intermediate, spec_.hidden, expert),
                      .up = Matrix(up, intermediate, spec_.hidden, expert),
                      .down = Matrix(down, spec_.hidden, intermediate, expert)};
    if (ffn.up.dtype() != ffn.gate.dtype()) {  // their rows are packed side by side
      throw Error("{}: expected {} as {}, got {}", ffn.up.tensor.name, DTypeName(ffn.gate.dtype()),
                  ffn.gate.tensor.name, DTypeName(ffn.up.dtype()));
    }
    return ffn;
  }

  LayerWeights Layer() {
    LayerWeights layer;
    FindAttention(layer);
    layer.ffn_norm = Vector(names_.ffn_norm, spec_.hidden);
    if (spec_.layers[static_cast<size_t>(layer_)].is_moe) {
      FindMoe(layer);
    } else {
      layer.dense = Ffn(names_.dense_gate, names_.dense_up, names_.dense_down, spec_.dense_intermediate);
    }
    return layer;
  }

  void FindAttention(LayerWeights& layer) {
    const AttentionSpec& attention = spec_.attention;
    layer.attention_norm = Vector(names_.attention_norm, spec_.hidden);
    layer.q = Matrix(names_.q, attention.q_width(), spec_.hidden);
    layer.k = Matrix(names_.k, attention.kv_width(), spec_.hidden);
    layer.v = Matrix(names_.v, attention.kv_width(), spec_.hidden);
    layer.o = Matrix(names_.o, spec_.hidden, attention.q_width());
    if (attention.qkv_bias) {
      layer.q_bias = Vector(names_.q_bias, attention.q_width());
      layer.k_bias = Vector(names_.k_bias, attention.kv_width());
      layer.v_bias = Vector(names_.v_bias, attention.kv_width());
    }
    if (attention.output_bias) layer.o_bias = Vector(names_.o_bias, spec_.hidden);
    if (attention.qk_norm != QkNorm::kNone) {
      const bool per_head = attention.qk_norm == QkNorm::kPerHead;
      layer.q_norm = Vector(names_.q_norm, per_head ? attention.head_dim : attention.q_width());
      layer.k_norm = Vector(names_.k_norm, per_head ? attention.head_dim : attention.kv_width());
    }
  }

  void FindMoe(LayerWeights& layer) {
    const MoeSpec& moe = spec_.moe;
    const bool fused = source_.Has(TensorName(names_.fused_gate_up, layer_));
    layer.router = Matrix(fused ? names_.fused_router : names_.router, moe.num_experts, spec_.hidden);
    layer.experts = fused ? FusedExperts() : SeparateExperts();
    if (moe.shared_intermediate > 0) {
      layer.shared = Ffn(names_.shared_gate, names_.shared_up, names_.shared_down, moe.shared_intermediate);
      layer.shared_router = Matrix(names_.shared_router, 1, spec_.hidden);
    }
  }

  std::vector<FfnWeights> SeparateExperts() {
    std::vector<FfnWeights> experts;
    for (int64_t e = 0; e < spec_.moe.num_experts; ++e) {
      experts.push_back(
          Ffn(names_.expert_gate, names_.expert_up, names_.expert_down, spec_.moe.intermediate, e));
    }
    return experts;
  }

  std::vector<FfnWeights> FusedExperts() {
    const int64_t count = spec_.moe.num_experts;
    const int64_t width = spec_.moe.intermediate;
    const Shape gate_up_shape = {count, 2 * width, spec_.hidden};
    const Shape down_shape = {count, spec_.hidden, width};
    const TensorInfo gate_up = source_.Require(TensorName(names_.fused_gate_up, layer_), gate_up_shape);
    const TensorInfo down = source_.Require(TensorName(names_.fused_down, layer_), down_shape);
    const StoredMatrix gate_up_rows = AsMatrix(gate_up, count * 2 * width, spec_.hidden);
    const StoredMatrix down_rows = AsMatrix(down, count * spec_.hidden, width);
    std::vector<FfnWeights> experts;
    for (int64_t e = 0; e < count; ++e) {
      experts.push_back({.gate = Rows(gate_up_rows, 2 * e * width, width),
                         .up = Rows(gate_up_rows, (2 * e + 1) * width, width),
                         .down = Rows(down_rows, e * spec_.hidden, spec_.hidden)});
    }
    return experts;
  }

  const ModelSpec& spec_;
  const TensorNames& names_;
  const WeightSource& source_;
  int64_t layer_ = 0;
};

}  // namespace

ModelWeights FindWeights(const ModelSpec& spec, const TensorNames& names, const WeightSource& source) {
  return Finder(spec, names, source).Find();
}

}  // namespace fiddler
