// Qwen3-MoE (Qwen/Qwen3-30B-A3B): arXiv 2505.09388.
#include "model/arch/common.h"
#include "model/arch/families.h"

namespace fiddler {
namespace {

ModelSpec Parse(ConfigReader& config) {
  const FamilyDefaults defaults = {
      .rope_theta = 1e4, .max_positions = 32768, .rms_norm_epsilon = 1e-6, .kv_heads = 4};
  ModelSpec spec = ParseTransformer(config, defaults);
  spec.attention.qkv_bias = spec.attention.output_bias = config.Boolean("attention_bias", false);
  spec.attention.qk_norm = QkNorm::kPerHead;
  spec.moe = ParseMoe(config, "num_experts", "moe_intermediate_size");
  spec.moe.renormalize = config.Boolean("norm_topk_prob", false);
  ParseDenseLayers(config, spec);

  const bool use_window = config.Boolean("use_sliding_window", false) && !config.IsNull("sliding_window");
  const int64_t window = use_window ? config.Integer("sliding_window", 1, kMaxPositions, 4096) : 0;
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  config.Ignore("sliding_window");     // says nothing while use_sliding_window is false
  config.Ignore("max_window_layers");  // not used by this family: all layers are windowed or none
  config.Ignore("layer_types");
  return spec;
}

}  // namespace

const Architecture kQwen3Moe = {
    .model_type = "qwen3_moe",
    .class_name = "Qwen3MoeForCausalLM",
    .parse = Parse,
    .names = {},
};

}  // namespace fiddler
