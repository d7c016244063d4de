#include "engine/attention.h"

#include <algorithm>
#include <cmath>

namespace fiddler {
namespace {

// Queries that share one pass over the keys: enough to reuse them, few enough to keep every thread busy.
constexpr int64_t kTileTokens = 16;

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
      attended_(workspace.Floats(max_batch_tokens * spec.attention.q_width())) {
  tiles_.reserve(static_cast<size_t>(max_batch_tokens));
}

void Attention::Run(int64_t layer, const PackedLayer& weights, std::span<const BatchEntry> batch,
                    const float* x, float* out) {
  const int64_t tokens = CountTokens(batch);
  Project(weights, tokens, x);
  int64_t row = 0;
  for (const BatchEntry& entry : batch) {
    NormRotateStore(layer, weights, entry, row);
    row += static_cast<int64_t>(entry.tokens.size());
  }
  Attend(layer, batch);
  const Product output = {.w = weights.o, .bias = DataOrNull(weights.o_bias), .y = out};
  ops_.MatMul({.tokens = tokens, .x = attended_, .stride = spec_.attention.q_width()}, {&output, 1});
}

void Attention::Project(const PackedLayer& weights, int64_t tokens, const float* x) {
  const Product products[] = {{.w = weights.q, .bias = DataOrNull(weights.q_bias), .y = q_},
                              {.w = weights.k, .bias = DataOrNull(weights.k_bias), .y = k_},
                              {.w = weights.v, .bias = DataOrNull(weights.v_bias), .y = v_}};
  ops_.MatMul({.tokens = tokens, .x = x, .stride = spec_.hidden}, products);
}

void Attention::NormRotateStore(int64_t layer, const PackedLayer& weights, const BatchEntry& entry,
                                int64_t first_row) {
  const AttentionSpec& attention = spec_.attention;
  const CpuKernels& kernels = ops_.kernels();
  const auto norm = [&](std::span<const float> weight, int64_t width, float* x) {  // one head, or all of them
    const auto cols = static_cast<int64_t>(weight.size());
    kernels.rms_norm({.rows = width / cols,
                      .cols = cols,
                      .x = x,
                      .x_stride = cols,
                      .y = x,
                      .y_stride = cols,
                      .weight = weight.data(),
                      .epsilon = spec_.rms_norm_epsilon});
  };
  const auto rotate = [&](int64_t position, int64_t heads, float* x) {
    kernels.rope({.x = x,
                  .heads = heads,
                  .head_dim = attention.head_dim,
                  .rotary_dim = spec_.rope.rotary_dim,
                  .cos = rope_.Cos(position),
                  .sin = rope_.Sin(position)});
  };
  ops_.ForEachToken(static_cast<int64_t>(entry.tokens.size()), [&](int64_t t) {
    const int64_t position = entry.first_position + t;
    float* q = q_ + (first_row + t) * attention.q_width();
    float* k = k_ + (first_row + t) * attention.kv_width();
    float* v = v_ + (first_row + t) * attention.kv_width();
    if (attention.qk_norm != QkNorm::kNone) {
      norm(weights.q_norm, attention.q_width(), q);
      norm(weights.k_norm, attention.kv_width(), k);
    }
    if (attention.clip_qkv) {
      Clamp(*attention.clip_qkv, {q, static_cast<size_t>(attention.q_width())});
      Clamp(*attention.clip_qkv, {k, static_cast<size_t>(attention.kv_width())});
      Clamp(*attention.clip_qkv, {v, static_cast<size_t>(attention.kv_width())});
    }
    rotate(position, attention.num_heads, q);
    rotate(position, attention.num_kv_heads, k);
    cache_.Write(layer, entry.block_table, position, k, v);
  });
}

void Attention::Attend(int64_t layer, std::span<const BatchEntry> batch) {
  const AttentionSpec& attention = spec_.attention;
  tiles_.clear();
  int64_t row = 0;
  for (const BatchEntry& entry : batch) {
    const auto count = static_cast<int64_t>(entry.tokens.size());
    for (int64_t offset = 0; offset < count; offset += kTileTokens) {
      tiles_.push_back({&entry, row + offset, offset, std::min(kTileTokens, count - offset)});
    }
    row += count;
  }
  // Later tiles see more keys: the longest tasks go first, so that no thread is left with one at the end.
  const auto num_tiles = static_cast<int64_t>(tiles_.size());
  ops_.pool().ParallelFor(num_tiles * attention.num_kv_heads, [&](int64_t task, int) {
    const Tile& tile = tiles_[static_cast<size_t>(num_tiles - 1 - task / attention.num_kv_heads)];
    ops_.kernels().attend({.tokens = tile.tokens,
                           .first_position = tile.entry->first_position + tile.offset,
                           .window = spec_.layers[static_cast<size_t>(layer)].sliding_window,
                           .kv_head = task % attention.num_kv_heads,
                           .group = attention.group(),
                           .scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim)),
                           .q = q_ + tile.row * attention.q_width(),
                           .q_stride = attention.q_width(),
                           .out = attended_ + tile.row * attention.q_width(),
                           .out_stride = attention.q_width(),
                           .kv = cache_.View(layer, tile.entry->block_table)});
  });
}

}  // namespace fiddler
