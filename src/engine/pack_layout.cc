#include "engine/pack_layout.h"

#include <algorithm>
#include <array>
#include <optional>

namespace fiddler {
namespace {

constexpr uint64_t kCacheLineBytes = 64;
constexpr uint64_t kPageBytes = 4096;  // every FFN begins on one: it may be locked or dropped by itself

// The format that holds both types exactly.
WeightFormat Common(WeightFormat a, WeightFormat b) { return a == b ? a : WeightFormat::kF32; }

WeightFormat StoredFormat(const FfnWeights& ffn) {
  return Common(Common(FormatOf(ffn.gate.dtype()), FormatOf(ffn.up.dtype())), FormatOf(ffn.down.dtype()));
}

WeightFormat FormatOfExperts(const ModelWeights& weights) {
  std::optional<WeightFormat> format;
  for (const LayerWeights& layer : weights.layers) {
    for (const FfnWeights& expert : layer.experts) {
      format = format ? Common(*format, StoredFormat(expert)) : StoredFormat(expert);
    }
  }
  return format.value_or(WeightFormat::kF32);
}

class Builder {
 public:
  Builder(const Model& model, const PackFormat& format, std::byte* memory, ExpertPlace experts)
      : spec_(model.spec()),
        stored_(model.weights),
        quantization_(format.quantization),
        memory_(memory),
        expert_place_(experts),
        expert_format_(Quantized(FormatOfExperts(stored_))) {
    const bool moe = spec_.moe.num_experts > 0;
    slice_neurons_ = format.slice_neurons > 0
                         ? format.slice_neurons
                         : ChooseSliceNeurons(
                               spec_.hidden, moe ? spec_.moe.intermediate : spec_.dense_intermediate,
                               moe ? expert_format_ : Quantized(StoredFormat(stored_.layers.front().dense)));
  }

  PackLayout Build() {
    PackedWeights& weights = layout_.weights;
    weights.embedding = Matrix(stored_.embedding, FormatOf(stored_.embedding.dtype()));
    weights.final_norm = stored_.final_norm;
    for (const LayerWeights& layer : stored_.layers) weights.layers.push_back(Layer(layer));
    WeightFormat head = FormatOf(stored_.head.dtype());
    if (quantization_ != Quantization::kNone) head = WeightFormat::kInt8;
    weights.head_is_embedding = spec_.tied_embeddings && head == weights.embedding.format;
    weights.head = weights.head_is_embedding ? weights.embedding : Matrix(stored_.head, head);
    return std::move(layout_);
  }

 private:
  WeightFormat Quantized(WeightFormat otherwise) const {
    switch (quantization_) {
      case Quantization::kNone:
        return otherwise;
      case Quantization::kInt8:
        return WeightFormat::kInt8;
      case Quantization::kInt4:
        return WeightFormat::kInt4;
    }
    __builtin_unreachable();
  }

  uint64_t Allocate(uint64_t bytes, uint64_t alignment) {
    const uint64_t offset = (layout_.bytes + alignment - 1) / alignment * alignment;
    layout_.bytes = offset + bytes;
    return offset;
  }

  const std::byte* At(uint64_t offset) const { return memory_ == nullptr ? nullptr : memory_ + offset; }

  PackedMatrix Matrix(const StoredMatrix& stored, WeightFormat format) {
    PackedMatrix matrix = {.data = nullptr, .format = format, .rows = stored.rows, .cols = stored.cols};
    const uint64_t offset = Allocate(matrix.bytes(), kCacheLineBytes);
    matrix.data = At(offset);
    layout_.matrices.push_back({&stored, matrix, offset});
    return matrix;
  }

  PackedMatrix Map(const StoredMatrix& stored) { return Matrix(stored, Quantized(FormatOf(stored.dtype()))); }

  SlicedFfn FfnShape(const FfnWeights& stored, WeightFormat format) const {
    return {.data = nullptr,
            .format = format,
            .hidden = spec_.hidden,
            .intermediate = stored.gate.rows,
            .slice_neurons = slice_neurons_};
  }

  SlicedFfn Ffn(const FfnWeights& stored, WeightFormat format) {
    SlicedFfn ffn = FfnShape(stored, format);
    const uint64_t offset = Allocate(ffn.bytes(), kPageBytes);
    ffn.data = At(offset);
    layout_.ffns.push_back({&stored, ffn, offset});
    return ffn;
  }

  SlicedFfn Expert(const FfnWeights& stored) {
    if (expert_place_ == ExpertPlace::kMemory) return Ffn(stored, expert_format_);
    const SlicedFfn expert = FfnShape(stored, expert_format_);
    layout_.experts_elsewhere.push_back({&stored, expert, 0});
    return expert;
  }

  PackedLayer Layer(const LayerWeights& stored) {
    PackedLayer layer;
    layer.attention_norm = stored.attention_norm;
    const WeightFormat qkv = Quantized(
        Common(Common(FormatOf(stored.q.dtype()), FormatOf(stored.k.dtype())), FormatOf(stored.v.dtype())));
    layer.q = Matrix(stored.q, qkv);  // one product with three matrices: of one format
    layer.k = Matrix(stored.k, qkv);
    layer.v = Matrix(stored.v, qkv);
    layer.o = Map(stored.o);
    layer.q_bias = stored.q_bias;
    layer.k_bias = stored.k_bias;
    layer.v_bias = stored.v_bias;
    layer.o_bias = stored.o_bias;
    layer.q_norm = stored.q_norm;
    layer.k_norm = stored.k_norm;
    layer.ffn_norm = stored.ffn_norm;
    if (stored.experts.empty()) {
      layer.dense = Ffn(stored.dense, Quantized(StoredFormat(stored.dense)));
      return layer;
    }
    layer.router = Matrix(stored.router, WeightFormat::kF32);
    if (stored.shared.gate.rows > 0) {
      layer.shared_router = Matrix(stored.shared_router, WeightFormat::kF32);
      layer.shared = Ffn(stored.shared, Quantized(StoredFormat(stored.shared)));
    }
    for (const FfnWeights& expert : stored.experts) layer.experts.push_back(Expert(expert));
    return layer;
  }

  const ModelSpec& spec_;
  const ModelWeights& stored_;
  const Quantization quantization_;
  std::byte* const memory_;
  const ExpertPlace expert_place_;
  const WeightFormat expert_format_;
  int64_t slice_neurons_ = 0;
  PackLayout layout_;
};

}  // namespace

std::string_view QuantizationName(Quantization quantization) {
  constexpr std::array<std::string_view, 3> kNames = {"none", "int8", "int4"};
  return kNames[static_cast<size_t>(quantization)];
}

PackLayout LayOut(const Model& model, const PackFormat& format, std::byte* memory, ExpertPlace experts) {
  return Builder(model, format, memory, experts).Build();
}

}  // namespace fiddler
