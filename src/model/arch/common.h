// Pieces of config.json that the families share. Defaults are those of Hugging Face transformers 5.23 for a
// field that is missing; each throws Error naming the field when a value makes no sense.
#pragma once

#include "model/config_reader.h"
#include "model/spec.h"

namespace fiddler {

// Largest counts taken from a config.json: far above any model, small enough that the number of parameters
// (at most layers * experts * 3 * width^2 and a little, 2^62) fits 64 bits, and so do their bytes.
inline constexpr int64_t kMaxWidth = 1 << 18;
inline constexpr int64_t kMaxHeads = 1 << 12;
inline constexpr int64_t kMaxHeadDim = 1 << 12;
inline constexpr int64_t kMaxLayers = 1 << 10;
inline constexpr int64_t kMaxExperts = 1 << 14;
inline constexpr int64_t kMaxPositions = int64_t{1} << 31;

struct FamilyDefaults {
  double rope_theta = 10000;
  int64_t max_positions = 0;
  double rms_norm_epsilon = 0;
  int64_t kv_heads = 0;  // when num_key_value_heads is not given; 0: as many as heads
};

// Everything but the FFNs and windows: sizes, heads, norms, RoPE, embeddings, special tokens. All layers are
// MoE without a window until the family says otherwise.
ModelSpec ParseTransformer(ConfigReader& config, const FamilyDefaults& defaults);

// Number and width of the experts under the family's own names, num_experts_per_tok. The number is taken from
// num_experts and num_local_experts alike: transformers reads and writes both for every family.
MoeSpec ParseMoe(ConfigReader& config, std::string_view count_field, std::string_view width_field);

// Qwen: which layers are dense, by mlp_only_layers and decoder_sparse_step.
void ParseDenseLayers(ConfigReader& config, ModelSpec& spec);

}  // namespace fiddler
