#include "kv/kv_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {

namespace {

uint64_t TotalBytes(const KvGeometry& geometry, int32_t num_blocks) {
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(KvCache::BlockBytes(geometry), static_cast<uint64_t>(num_blocks), &bytes)) {
    throw Error("KV cache: expected less than 2^64 bytes, got {} blocks of {}", num_blocks,
                KvCache::BlockBytes(geometry));
  }
  return bytes;
}

}  // namespace

uint64_t KvCache::BlockBytes(const KvGeometry& geometry) {
  const int64_t elements = geometry.num_layers * 2 * geometry.num_kv_heads * kBlockTokens * geometry.head_dim;
  return static_cast<uint64_t>(elements) * sizeof(float);
}

KvCache::KvCache(const KvGeometry& geometry, int32_t num_blocks)
    : geometry_(geometry),
      block_stride_(2 * geometry.num_kv_heads * kBlockTokens * geometry.head_dim),
      memory_(TotalBytes(geometry, num_blocks), "KV cache"),
      pool_(num_blocks) {}

float* KvCache::Layer(int64_t layer) const {
  return reinterpret_cast<float*>(memory_.bytes().data()) + layer * pool_.capacity() * block_stride_;
}

void KvCache::Write(int64_t layer, std::span<const BlockId> block_table, int64_t position, const float* key,
                    const float* value) {
  const auto index = static_cast<size_t>(position / kBlockTokens);
  CHECK(index < block_table.size(), "position {} in {} blocks", position, block_table.size());
  const int64_t head_stride = kBlockTokens * geometry_.head_dim;
  float* keys =
      Layer(layer) + block_table[index] * block_stride_ + position % kBlockTokens * geometry_.head_dim;
  float* values = keys + geometry_.num_kv_heads * head_stride;
  for (int64_t head = 0; head < geometry_.num_kv_heads; ++head) {
    std::copy_n(key + head * geometry_.head_dim, geometry_.head_dim, keys + head * head_stride);
    std::copy_n(value + head * geometry_.head_dim, geometry_.head_dim, values + head * head_stride);
  }
}

KvView KvCache::View(int64_t layer, std::span<const BlockId> block_table) const {
  return {.layer = Layer(layer),
          .block_stride = block_stride_,
          .block_table = block_table.data(),
          .block_tokens = kBlockTokens,
          .kv_heads = geometry_.num_kv_heads,
          .head_dim = geometry_.head_dim};
}

}  // namespace fiddler
