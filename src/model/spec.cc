#include "model/spec.h"

namespace fiddler {

ParameterCount CountParameters(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  const MoeSpec& moe = spec.moe;
  ParameterCount count;

  int64_t attention_params = spec.hidden * (attention.q_width() + 2 * attention.kv_width());
  attention_params +=
      attention.q_width() * spec.hidden + 2 * spec.hidden;  // output map, the layer's two norms
  if (attention.qkv_bias) attention_params += attention.q_width() + 2 * attention.kv_width();
  if (attention.output_bias) attention_params += spec.hidden;
  if (attention.qk_norm == QkNorm::kPerHead) attention_params += 2 * attention.head_dim;
  if (attention.qk_norm == QkNorm::kFullWidth) attention_params += attention.q_width() + attention.kv_width();

  const int64_t expert = 3 * spec.hidden * moe.intermediate;
  int64_t shared = spec.hidden * moe.num_experts;  // the router
  if (moe.shared_intermediate > 0) shared += 3 * spec.hidden * moe.shared_intermediate + spec.hidden;

  for (const LayerSpec& layer : spec.layers) {
    const int64_t always =
        attention_params + (layer.is_moe ? shared : 3 * spec.hidden * spec.dense_intermediate);
    count.total += always;
    count.active += always;
    if (layer.is_moe) {
      count.experts += moe.num_experts * expert;
      count.active += moe.top_k * expert;
    }
  }
  const int64_t vocab_matrix = spec.vocab_size * spec.hidden;
  count.total += count.experts + vocab_matrix * (spec.tied_embeddings ? 1 : 2) + spec.hidden;
  count.active += vocab_matrix + 2 * spec.hidden;  // the output head, the final norm, one row of embeddings
  return count;
}

}  // namespace fiddler
