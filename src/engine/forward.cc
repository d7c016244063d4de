#include "engine/forward.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {
DType KvTypeFor(const PackedModel& model, Arithmetic arithmetic) {
  const bool rounded = FastRounding(model.weights.layers.front().q.format) != Rounding::kNone;
  return arithmetic == Arithmetic::kFast && rounded ? DType::kBF16 : DType::kF32;
}

Forward::Forward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool, KvCache& cache,
                 const ForwardLimits& limits)
    : model_(model),
      limits_(limits),
      ops_(kernels, pool, limits.arithmetic, std::max(limits.batch_tokens, limits.logit_rows),
           std::max(model.spec.hidden, model.spec.attention.q_width()), workspace_),
      hidden_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      normed_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      branch_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      logits_(workspace_.Floats(limits.logit_rows * model.spec.vocab_size)),
      attention_(model.spec, ops_, cache, limits.positions, limits.batch_tokens, workspace_),
      ffn_(model, ops_, limits.batch_tokens, workspace_) {}

void Forward::Run(std::span<const BatchEntry> batch) {
  const ModelSpec& spec = model_.spec;
  const int64_t tokens = CountTokens(batch);
  CHECK(tokens <= limits_.batch_tokens, "{} tokens", tokens);

  Embed(batch);
  for (int64_t l = 0; l < spec.num_layers(); ++l) {
    const PackedLayer& layer = model_.weights.layers[static_cast<size_t>(l)];
    ops_.Norm(tokens, hidden_, layer.attention_norm, spec.rms_norm_epsilon, normed_);
    attention_.Run(l, layer, batch, normed_, branch_);
    ops_.Add(tokens, spec.hidden, branch_, hidden_);

    ops_.Norm(tokens, hidden_, layer.ffn_norm, spec.rms_norm_epsilon, normed_);
    ffn_.Run(l, layer, tokens, normed_, branch_);
    ops_.Add(tokens, spec.hidden, branch_, hidden_);
  }
  ops_.Norm(tokens, hidden_, model_.weights.final_norm, spec.rms_norm_epsilon, normed_);
}

void Forward::Embed(std::span<const BatchEntry> batch) {
  float* row = hidden_;
  for (const BatchEntry& entry : batch) {
    const int64_t end = entry.first_position + static_cast<int64_t>(entry.tokens.size());
    CHECK(end <= limits_.positions, "position {} of {}", end, limits_.positions);
    for (int32_t token : entry.tokens) {
      CHECK(token >= 0 && token < model_.spec.vocab_size, "token {}", token);
      UnpackRow(model_.weights.embedding, token, row);
      row += model_.spec.hidden;
    }
  }
}

std::span<float> Forward::Logits(std::span<const int32_t> rows) {
  const ModelSpec& spec = model_.spec;
  const auto count = static_cast<int64_t>(rows.size());
  CHECK(count <= limits_.logit_rows, "{} rows", count);
  const Product product = {.w = model_.weights.head, .y = logits_};
  ops_.MatMul({.tokens = count, .x = normed_, .stride = spec.hidden, .row_index = rows.data()},
              {&product, 1});
  return {logits_, static_cast<size_t>(count * spec.vocab_size)};
}

}  // namespace fiddler
