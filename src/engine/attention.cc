#include "engine/attention.h"

#include <algorithm>

namespace fiddler {
namespace {

// Positions whose cells are written by one thread (KvWriteArgs), from a multiple of this on.
constexpr int64_t kStretchTokens = 16;

void Clamp(float limit, std::span<float> values) {
  for (float& value : values) value = std::clamp(value, -limit, limit);
}

const float* DataOrNull(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

}  // namespace

Attention::Attention(const ModelSpec& spec, const ParallelOps& ops, KvCache& cache, int64_t max_positions,
                     int64_t max_batch_tokens, Workspace& workspace)
    : spec_(spec),
      ops_(ops),
      cache_(cache),
      rope_(spec.rope, max_positions),
      q_(workspace.Floats(max_batch_tokens * spec.attention.q_width())),
      k_(workspace.Floats(max_batch_tokens * spec.attention.kv_width())),
      v_(workspace.Floats(max_batch_tokens * spec.attention.kv_width())),
      attended_(workspace.Floats(max_batch_tokens * spec.attention.q_width())),
      attend_(spec.attention, ops.kernels(), ops.pool(), cache, max_positions, max_batch_tokens, workspace) {
  stretches_.reserve(static_cast<size_t>(max_batch_tokens));
}

void Attention::Run(int64_t layer, const PackedLayer& weights, std::span<const BatchEntry> batch,
                    const float* x, float* out) {
  const int64_t tokens = CountTokens(batch);
  Project(weights, tokens, x);
  NormRotateStore(layer, weights, batch);
  attend_.Run(layer, spec_.layers[static_cast<size_t>(layer)].sliding_window, batch, q_, attended_);
  const Product output = {.w = weights.o, .bias = DataOrNull(weights.o_bias), .y = out};
  ops_.MatMul({.tokens = tokens, .x = attended_, .stride = spec_.attention.q_width()}, {&output, 1});
}

void Attention::Project(const PackedLayer& weights, int64_t tokens, const float* x) {
  const Product products[] = {{.w = weights.q, .bias = DataOrNull(weights.q_bias), .y = q_},
                              {.w = weights.k, .bias = DataOrNull(weights.k_bias), .y = k_},
                              {.w = weights.v, .bias = DataOrNull(weights.v_bias), .y = v_}};
  ops_.MatMul({.tokens = tokens, .x = x, .stride = spec_.hidden}, products);
}

void Attention::NormRotateStore(int64_t layer, const PackedLayer& weights,
                                std::span<const BatchEntry> batch) {
  stretches_.clear();
  int64_t row = 0;
  for (const BatchEntry& entry : batch) {
    const auto count = static_cast<int64_t>(entry.tokens.size());
    for (int64_t offset = 0; offset < count;) {
      const int64_t whole = kStretchTokens - (entry.first_position + offset) % kStretchTokens;
      const int64_t tokens = std::min(whole, count - offset);
      stretches_.push_back({&entry, row + offset, offset, tokens});
      offset += tokens;
    }
    row += count;
  }
  const auto prepare = [&](const Stretch& stretch) {
    const int64_t first_position = stretch.entry->first_position + stretch.offset;
    for (int64_t t = 0; t < stretch.tokens; ++t) NormRotate(weights, stretch.row + t, first_position + t);
    ops_.kernels().kv_write({.tokens = stretch.tokens,
                             .first_position = first_position,
                             .k = k_ + stretch.row * spec_.attention.kv_width(),
                             .v = v_ + stretch.row * spec_.attention.kv_width(),
                             .kv = cache_.View(layer, stretch.entry->block_table)});
  };
  constexpr int64_t kWorthIt = 8;  // tokens, to wake the threads for
  if (row < kWorthIt) {
    for (const Stretch& stretch : stretches_) prepare(stretch);
  } else {
    ops_.pool().ParallelFor(std::ssize(stretches_),
                            [&](int64_t i, int) { prepare(stretches_[static_cast<size_t>(i)]); });
  }
}

void Attention::NormRotate(const PackedLayer& weights, int64_t row, int64_t position) {
  const AttentionSpec& attention = spec_.attention;
  float* q = q_ + row * attention.q_width();
  float* k = k_ + row * attention.kv_width();
  float* v = v_ + row * attention.kv_width();
  const auto norm = [&](std::span<const float> weight, int64_t width, float* x) {  // one head, or all of them
    const auto cols = static_cast<int64_t>(weight.size());
    ops_.kernels().rms_norm({.rows = width / cols,
                             .cols = cols,
                             .x = x,
                             .x_stride = cols,
                             .y = x,
                             .y_stride = cols,
                             .weight = weight.data(),
                             .epsilon = spec_.rms_norm_epsilon});
  };
  if (attention.qk_norm != QkNorm::kNone) {
    norm(weights.q_norm, attention.q_width(), q);
    norm(weights.k_norm, attention.kv_width(), k);
  }
  if (attention.clip_qkv) {
    Clamp(*attention.clip_qkv, {q, static_cast<size_t>(attention.q_width())});
    Clamp(*attention.clip_qkv, {k, static_cast<size_t>(attention.kv_width())});
    Clamp(*attention.clip_qkv, {v, static_cast<size_t>(attention.kv_width())});
  }
  const auto rotate = [&](int64_t heads, float* x) {
    ops_.kernels().rope({.x = x,
                         .heads = heads,
                         .head_dim = attention.head_dim,
                         .rotary_dim = spec_.rope.rotary_dim,
                         .cos = rope_.Cos(position),
                         .sin = rope_.Sin(position)});
  };
  rotate(attention.num_heads, q);
  rotate(attention.num_kv_heads, k);
}

}  // namespace fiddler
