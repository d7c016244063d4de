// Qwen1.5-MoE and Qwen2-MoE (Qwen/Qwen1.5-MoE-A2.7B): arXiv 2407.10671.
#include "base/error.h"
#include "model/arch/common.h"
#include "model/arch/families.h"

namespace fiddler {
namespace {

// Which layers see only a window of positions. transformers 5 writes layer_types; without it, every other
// layer below max_window_layers is windowed, from the first.
void ParseWindows(ConfigReader& config, ModelSpec& spec) {
  const bool enabled = config.Boolean("use_sliding_window", false);
  const std::vector<std::string> types = config.Strings("layer_types");
  if (!types.empty() && types.size() != spec.layers.size()) {
    throw Error("{}: layer_types: expected {} entries, one a layer, got {}", config.source(),
                spec.layers.size(), types.size());
  }
  if (!enabled) {
    for (const std::string& type : types) {
      if (type != "full_attention")
        config.Fail("layer_types", "full_attention only (use_sliding_window is false)", type);
    }
    config.Ignore("sliding_window");
    config.Ignore("max_window_layers");
    return;
  }
  if (config.IsNull("sliding_window"))
    config.Fail("sliding_window", "a number (use_sliding_window is true)", nullptr);
  const int64_t window = config.Integer("sliding_window", 1, kMaxPositions, 4096);
  const int64_t below = config.Integer("max_window_layers", 0, kMaxLayers, 28);
  for (int64_t l = 0; l < spec.num_layers(); ++l) {
    bool windowed = l < below && l % 2 == 0;
    if (!types.empty()) {
      const std::string& type = types[static_cast<size_t>(l)];
      windowed = type == "sliding_attention";
      if (!windowed && type != "full_attention") {
        config.Fail("layer_types", "full_attention or sliding_attention", type);
      }
    }
    spec.layers[static_cast<size_t>(l)].sliding_window = windowed ? window : 0;
  }
}

ModelSpec Parse(ConfigReader& config) {
  const FamilyDefaults defaults = {
      .rope_theta = 1e4, .max_positions = 32768, .rms_norm_epsilon = 1e-6, .kv_heads = 16};
  ModelSpec spec = ParseTransformer(config, defaults);
  spec.attention.qkv_bias = config.Boolean("qkv_bias", true);
  spec.moe = ParseMoe(config, "num_experts", "moe_intermediate_size");
  spec.moe.renormalize = config.Boolean("norm_topk_prob", false);
  spec.moe.shared_intermediate = config.Integer("shared_expert_intermediate_size", 1, kMaxWidth, 5632);
  ParseDenseLayers(config, spec);
  ParseWindows(config, spec);
  return spec;
}

}  // namespace

const Architecture kQwen2Moe = {
    .model_type = "qwen2_moe",
    .class_name = "Qwen2MoeForCausalLM",
    .parse = Parse,
    .names = {},
};

}  // namespace fiddler
