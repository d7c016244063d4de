#include "model/arch/common.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "model/arch/rope.h"

namespace fiddler {
namespace {

AttentionSpec ParseAttention(ConfigReader& config, int64_t hidden, const FamilyDefaults& defaults) {
  AttentionSpec attention;
  attention.num_heads = config.Integer("num_attention_heads", 1, kMaxHeads);
  // null means as many as heads; absent, what the family says.
  const bool as_many_as_heads = defaults.kv_heads == 0 || config.IsNull("num_key_value_heads");
  const int64_t kv_heads = as_many_as_heads ? attention.num_heads : defaults.kv_heads;
  attention.num_kv_heads = config.Integer("num_key_value_heads", 1, attention.num_heads, kv_heads);
  if (attention.num_kv_heads < 1 || attention.num_heads % attention.num_kv_heads != 0) {
    throw Error("{}: num_key_value_heads: expected a divisor of num_attention_heads ({}), got {}",
                config.source(), attention.num_heads, attention.num_kv_heads);
  }
  attention.head_dim = config.Integer("head_dim", 1, kMaxHeadDim, hidden / attention.num_heads);
  if (attention.head_dim < 2 || attention.head_dim % 2 != 0) {
    throw Error("{}: head_dim: expected an even number (RoPE turns pairs), got {}", config.source(),
                attention.head_dim);
  }
  return attention;
}

// YaRN is switched on by hand, and max_position_embeddings then stays what it was (model card of
// Qwen3-30B-A3B).
int64_t StretchedContext(const RopeSpec& rope) {
  if (rope.scaling != RopeSpec::Scaling::kYarn) return 0;
  return static_cast<int64_t>(
      std::min(rope.factor * rope.original_context, static_cast<double>(kMaxPositions)));
}

}  // namespace

ModelSpec ParseTransformer(ConfigReader& config, const FamilyDefaults& defaults) {
  constexpr int64_t kMaxVocab = 1 << 24;
  ModelSpec spec;
  spec.hidden = config.Integer("hidden_size", 1, kMaxWidth);
  spec.vocab_size = config.Integer("vocab_size", 1, kMaxVocab);
  spec.max_positions = config.Integer("max_position_embeddings", 1, kMaxPositions, defaults.max_positions);
  spec.rms_norm_epsilon = static_cast<float>(config.Number("rms_norm_eps", 0, 1, defaults.rms_norm_epsilon));
  spec.tied_embeddings = config.Boolean("tie_word_embeddings", false);
  spec.attention = ParseAttention(config, spec.hidden, defaults);
  spec.rope = ParseRope(config, spec.attention.head_dim, spec.max_positions, defaults.rope_theta);
  spec.max_positions = std::max(spec.max_positions, StretchedContext(spec.rope));
  spec.layers.resize(static_cast<size_t>(config.Integer("num_hidden_layers", 1, kMaxLayers)));
  config.MustBe("hidden_act", "silu");

  constexpr int64_t kMaxToken = std::numeric_limits<int32_t>::max();
  if (config.Has("bos_token_id"))
    spec.bos_token = static_cast<int32_t>(config.Integer("bos_token_id", 0, kMaxToken));
  for (int64_t id : config.Integers("eos_token_id", 0, kMaxToken))
    spec.eos_tokens.push_back(static_cast<int32_t>(id));
  return spec;
}

MoeSpec ParseMoe(ConfigReader& config, std::string_view count_field, std::string_view width_field) {
  MoeSpec moe;
  const std::string_view alias = count_field == "num_experts" ? "num_local_experts" : "num_experts";
  const bool by_alias = config.Has(alias) && !config.Has(count_field);
  moe.num_experts = config.Integer(by_alias ? alias : count_field, 1, kMaxExperts);
  config.MustBe(alias, moe.num_experts);
  moe.top_k = config.Integer("num_experts_per_tok", 1, moe.num_experts);
  moe.intermediate = config.Integer(width_field, 1, kMaxWidth);
  return moe;
}

void ParseDenseLayers(ConfigReader& config, ModelSpec& spec) {
  const int64_t step = config.Integer("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> dense = config.Integers("mlp_only_layers", 0, kMaxLayers);
  bool any_dense = false;
  for (int64_t l = 0; l < spec.num_layers(); ++l) {
    const bool is_moe = std::find(dense.begin(), dense.end(), l) == dense.end() && (l + 1) % step == 0;
    spec.layers[static_cast<size_t>(l)].is_moe = is_moe;
    any_dense |= !is_moe;
  }
  if (any_dense) spec.dense_intermediate = config.Integer("intermediate_size", 1, kMaxWidth);
  config.Ignore("intermediate_size");  // says nothing where every layer is MoE
}

}  // namespace fiddler
