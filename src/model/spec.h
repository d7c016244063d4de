// ModelSpec: what a model computes, as plain data. Filled from config.json by model/arch/<family>.cc; the
// rest of the program reads it and never asks which family it was.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fiddler {

// Rotary position embedding (arXiv 2104.09864) and how it is stretched to longer contexts.
struct RopeSpec {
  enum class Scaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

  double theta = 10000;
  int64_t rotary_dim = 0;  // the leading dimensions of each head that turn; even
  Scaling scaling = Scaling::kNone;
  double factor = 1;            // all but kNone
  double original_context = 0;  // kLlama3, kYarn: positions the model was first trained for
  double low_frequency = 1;     // kLlama3
  double high_frequency = 4;    // kLlama3
  double beta_fast = 32;        // kYarn
  double beta_slow = 1;         // kYarn
  bool truncate = true;         // kYarn: round the ramp's ends to whole dimensions
  double attention_factor = 1;  // kYarn: cos and sin are multiplied by it
};

enum class QkNorm : uint8_t {
  kNone,
  kPerHead,    // RMSNorm over each head's head_dim
  kFullWidth,  // RMSNorm over all heads together
};

struct AttentionSpec {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  QkNorm qk_norm = QkNorm::kNone;  // before RoPE
  std::optional<float> clip_qkv;   // q, k, v clamped to [-clip, clip] after the norm, before RoPE

  int64_t q_width() const { return num_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
  int64_t group() const { return num_heads / num_kv_heads; }
};

struct MoeSpec {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t intermediate = 0;         // neurons of one expert
  bool renormalize = false;         // top-k router weights divided by their sum
  int64_t shared_intermediate = 0;  // neurons of the expert every token passes, gated by a sigmoid; 0: none
};

struct LayerSpec {
  bool is_moe = true;          // else a dense FFN of ModelSpec::dense_intermediate neurons
  int64_t sliding_window = 0;  // a token sees this many positions, its own included; 0: all
};

struct ModelSpec {
  std::string family;  // model_type of config.json
  int64_t hidden = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  // what the model was made for, stretching included
  float rms_norm_epsilon = 0;
  bool tied_embeddings = false;  // the output head is the embedding matrix
  AttentionSpec attention;
  RopeSpec rope;
  MoeSpec moe;
  int64_t dense_intermediate = 0;
  std::vector<LayerSpec> layers;
  std::optional<int32_t> bos_token;
  std::vector<int32_t> eos_tokens;

  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
};

// Parameters of a model, and those one token passes through.
struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;   // the embedding counts once per use: a row is not a pass over the matrix
  int64_t experts = 0;  // routed experts' share of `total`
};
ParameterCount CountParameters(const ModelSpec& spec);

}  // namespace fiddler
