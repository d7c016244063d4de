// OLMoE (allenai/OLMoE-1B-7B): arXiv 2409.02060.
#include "base/error.h"
#include "model/arch/common.h"
#include "model/arch/families.h"

namespace fiddler {
namespace {

ModelSpec Parse(ConfigReader& config) {
  const FamilyDefaults defaults = {
      .rope_theta = 1e4, .max_positions = 4096, .rms_norm_epsilon = 1e-5, .kv_heads = 0};
  ModelSpec spec = ParseTransformer(config, defaults);
  if (spec.attention.q_width() != spec.hidden) {
    throw Error("{}: head_dim: expected hidden_size / num_attention_heads ({} / {}), got {}", config.source(),
                spec.hidden, spec.attention.num_heads, spec.attention.head_dim);
  }
  spec.attention.qkv_bias = spec.attention.output_bias = config.Boolean("attention_bias", false);
  spec.attention.qk_norm = QkNorm::kFullWidth;
  if (config.Has("clip_qkv"))
    spec.attention.clip_qkv = static_cast<float>(config.Number("clip_qkv", 1e-6, 1e6));
  spec.moe = ParseMoe(config, "num_experts", "intermediate_size");
  spec.moe.renormalize = config.Boolean("norm_topk_prob", false);
  return spec;
}

}  // namespace

const Architecture kOlmoe = {
    .model_type = "olmoe",
    .class_name = "OlmoeForCausalLM",
    .parse = Parse,
    .names = {},
};

}  // namespace fiddler
