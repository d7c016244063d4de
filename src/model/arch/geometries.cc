#include "model/arch/geometries.h"

namespace fiddler {
namespace {

constexpr std::string_view kMixtral8x7b = R"({
  "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
  "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
  "num_attention_heads": 32, "num_key_value_heads": 8,
  "num_local_experts": 8, "num_experts_per_tok": 2,
  "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
  "bos_token_id": 1, "eos_token_id": 2
})";

constexpr std::string_view kQwen330bA3b = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
  "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
  "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
  "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": true,
  "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "bos_token_id": 151643, "eos_token_id": 151645
})";

constexpr std::string_view kOlmoe1b7b = R"({
  "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe",
  "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
  "num_attention_heads": 16, "num_key_value_heads": 16,
  "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": false,
  "vocab_size": 50304, "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
  "eos_token_id": 50279
})";

constexpr Geometry kGeometries[] = {
    {.name = "mixtral-8x7b", .config_json = kMixtral8x7b, .layers = 0, .vocab_size = 0},
    {.name = "mixtral-4l", .config_json = kMixtral8x7b, .layers = 4, .vocab_size = 0},
    {.name = "qwen3-30b-a3b", .config_json = kQwen330bA3b, .layers = 0, .vocab_size = 0},
    {.name = "qwen3-12l", .config_json = kQwen330bA3b, .layers = 12, .vocab_size = 32000},
    {.name = "olmoe-1b-7b", .config_json = kOlmoe1b7b, .layers = 0, .vocab_size = 0},
};

}  // namespace

std::span<const Geometry> Geometries() { return kGeometries; }

}  // namespace fiddler
