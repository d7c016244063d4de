// Which format every matrix of a model is packed in, and where it comes to lie. Pure: reads names, types and
// shapes, no weights, so that sizes are known (and inspect shows them) before anything is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/packed_weights.h"
#include "model/model.h"

namespace fiddler {

// What --quant asks for. Quantized are the matrices that decide speed: experts, dense FFNs, q, k, v and o;
// the head too, but never below INT8, since its errors reach the logits directly. Never quantized: the router
// (packed as F32: whom it chooses must not depend on a format) and the embedding, of which a token reads one
// row. So a tied head that is quantized is a second matrix beside the embedding.
enum class Quantization : uint8_t { kNone, kInt8, kInt4 };

std::string_view QuantizationName(Quantization quantization);  // "none", "int8", "int4"

struct PackFormat {
  Quantization quantization = Quantization::kNone;
  int64_t slice_neurons = 0;  // 0: ChooseSliceNeurons
};

struct PackLayout {
  // One matrix, or one FFN, from the source and where it goes.
  struct Matrix {
    const StoredMatrix* from;
    PackedMatrix to;
    uint64_t offset;
  };
  struct Ffn {
    const FfnWeights* from;
    SlicedFfn to;
    uint64_t offset;
  };

  PackedWeights weights;
  std::vector<Matrix> matrices;
  std::vector<Ffn> ffns;
  std::vector<Ffn> experts_elsewhere;  // layer by layer; without a place
  uint64_t bytes = 0;                  // of memory
};

// Where routed experts lie: with everything else, or somewhere else (a file), which leaves them no data.
enum class ExpertPlace : uint8_t { kMemory, kElsewhere };

// `memory`: where it will lie, aligned to a page; or nullptr, then all data pointers are. `model` must
// outlive the layout. Where no quantization is asked for, every format holds the stored type exactly; all
// experts have one format.
PackLayout LayOut(const Model& model, const PackFormat& format, std::byte* memory = nullptr,
                  ExpertPlace experts = ExpertPlace::kMemory);

}  // namespace fiddler
