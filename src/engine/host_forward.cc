#include "engine/host_forward.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {

HostForward::HostForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                         const ForwardLimits& limits)
    : HostForward(model, kernels, pool, limits, Workspace::Mode::kAllocate) {}

HostForward::HostForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                         const ForwardLimits& limits, Workspace::Mode mode)
    : model_(model),
      limits_(limits),
      cache_(KvGeometryOf(model, limits.arithmetic), mode == Workspace::Mode::kCount ? 0 : limits.kv_blocks),
      workspace_(mode),
      ops_(kernels, pool, limits.arithmetic, std::max(limits.batch_tokens, limits.logit_rows),
           std::max(model.spec.hidden, model.spec.attention.q_width()), workspace_),
      hidden_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      normed_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      branch_(workspace_.Floats(limits.batch_tokens * model.spec.hidden)),
      logits_(workspace_.Floats(limits.logit_rows * model.spec.vocab_size)),
      attention_(model.spec, ops_, cache_, limits.positions, limits.batch_tokens, workspace_),
      ffn_(model, ops_, limits.batch_tokens, workspace_) {}

HostForward::Needs HostForward::NeedsOf(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                        const ForwardLimits& limits) {
  const HostForward counted(model, kernels, pool, limits, Workspace::Mode::kCount);
  return {.kv_bytes = KvCache::Bytes(KvGeometryOf(model, limits.arithmetic), limits.kv_blocks),
          .workspace_bytes = counted.workspace_.bytes()};
}

void HostForward::Run(std::span<const BatchEntry> batch) {
  const ModelSpec& spec = model_.spec;
  const int64_t tokens = CountTokens(batch);
  CheckBatch(batch, spec, limits_);

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

void HostForward::Embed(std::span<const BatchEntry> batch) {
  float* row = hidden_;
  for (const BatchEntry& entry : batch) {
    for (int32_t token : entry.tokens) {
      UnpackRow(model_.weights.embedding, token, row);
      row += model_.spec.hidden;
    }
  }
}

std::span<float> HostForward::Logits(std::span<const int32_t> rows) {
  const ModelSpec& spec = model_.spec;
  const auto count = static_cast<int64_t>(rows.size());
  CHECK(count <= limits_.logit_rows, "{} rows", count);
  const Product product = {.w = model_.weights.head, .y = logits_};
  ops_.MatMul({.tokens = count, .x = normed_, .stride = spec.hidden, .row_index = rows.data()},
              {&product, 1});
  return {logits_, static_cast<size_t>(count * spec.vocab_size)};
}

}  // namespace fiddler
