// A model family: how its config.json becomes a ModelSpec, and what it calls its tensors.
// A new family is one file in model/arch/ and one line in model/registry.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/json_fwd.h"
#include "model/spec.h"

namespace fiddler {

class ConfigReader;

// Names of the tensors in a checkpoint; {layer} and {expert} are replaced by numbers. All are weights of
// linear maps [out, in], norms [width] or biases [out], as published on the Hugging Face Hub.
struct TensorNames {
  std::string_view embedding = "model.embed_tokens.weight";
  std::string_view final_norm = "model.norm.weight";
  std::string_view head = "lm_head.weight";

  std::string_view attention_norm = "model.layers.{layer}.input_layernorm.weight";
  std::string_view q = "model.layers.{layer}.self_attn.q_proj.weight";
  std::string_view k = "model.layers.{layer}.self_attn.k_proj.weight";
  std::string_view v = "model.layers.{layer}.self_attn.v_proj.weight";
  std::string_view o = "model.layers.{layer}.self_attn.o_proj.weight";
  std::string_view q_bias = "model.layers.{layer}.self_attn.q_proj.bias";
  std::string_view k_bias = "model.layers.{layer}.self_attn.k_proj.bias";
  std::string_view v_bias = "model.layers.{layer}.self_attn.v_proj.bias";
  std::string_view o_bias = "model.layers.{layer}.self_attn.o_proj.bias";
  std::string_view q_norm = "model.layers.{layer}.self_attn.q_norm.weight";
  std::string_view k_norm = "model.layers.{layer}.self_attn.k_norm.weight";

  std::string_view ffn_norm = "model.layers.{layer}.post_attention_layernorm.weight";
  std::string_view router = "model.layers.{layer}.mlp.gate.weight";
  std::string_view expert_gate = "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight";
  std::string_view expert_up = "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight";
  std::string_view expert_down = "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight";
  std::string_view shared_gate = "model.layers.{layer}.mlp.shared_expert.gate_proj.weight";
  std::string_view shared_up = "model.layers.{layer}.mlp.shared_expert.up_proj.weight";
  std::string_view shared_down = "model.layers.{layer}.mlp.shared_expert.down_proj.weight";
  std::string_view shared_router = "model.layers.{layer}.mlp.shared_expert_gate.weight";
  std::string_view dense_gate = "model.layers.{layer}.mlp.gate_proj.weight";
  std::string_view dense_up = "model.layers.{layer}.mlp.up_proj.weight";
  std::string_view dense_down = "model.layers.{layer}.mlp.down_proj.weight";

  // The layout transformers 5 writes on request: all experts of a layer in two tensors,
  // gate_up [num_experts, 2 * intermediate, hidden] (gate rows first) and down [num_experts, hidden,
  // intermediate].
  std::string_view fused_router = "model.layers.{layer}.mlp.gate.weight";
  std::string_view fused_gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj";
  std::string_view fused_down = "model.layers.{layer}.mlp.experts.down_proj";
};

// Replaces {layer} and {expert}.
std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert = 0);

struct Architecture {
  std::string_view model_type;  // config.json's model_type
  std::string_view class_name;  // config.json's architectures[0]
  // Reads every field that matters; throws Error naming the field otherwise.
  ModelSpec (*parse)(ConfigReader& config);
  TensorNames names;
};

// All families, in model/registry.cc.
std::span<const Architecture* const> Architectures();

// The family of a config.json, by model_type and architectures. Throws Error naming what was found and what
// is supported.
const Architecture& FindArchitecture(ConfigReader& config);

// config.json to ModelSpec, every field accounted for. `tolerated`: fields the user said to ignore.
ModelSpec ParseConfig(const Json& config, const std::string& source,
                      std::span<const std::string> tolerated = {});

}  // namespace fiddler
