// Mixtral (mistralai/Mixtral-8x7B): arXiv 2401.04088.
#include "model/arch/common.h"
#include "model/arch/families.h"

namespace fiddler {
namespace {

ModelSpec Parse(ConfigReader& config) {
  const FamilyDefaults defaults = {
      .rope_theta = 1e6, .max_positions = 131072, .rms_norm_epsilon = 1e-5, .kv_heads = 8};
  ModelSpec spec = ParseTransformer(config, defaults);
  spec.moe = ParseMoe(config, "num_local_experts", "intermediate_size");
  spec.moe.renormalize = true;
  const int64_t window = config.Integer("sliding_window", 1, kMaxPositions, 0);
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  return spec;
}

}  // namespace

const Architecture kMixtral = {
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .parse = Parse,
    .names = {.router = "model.layers.{layer}.block_sparse_moe.gate.weight",
              .expert_gate = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
              .expert_up = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
              .expert_down = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"},
};

}  // namespace fiddler
