#include "kv/kv_cache.h"

#include "base/check.h"
#include "base/error.h"

namespace fiddler {

namespace {

KvLayout LayoutOf(const KvGeometry& geometry) {
  CHECK(geometry.dtype == DType::kF32 || geometry.dtype == DType::kBF16, "keys and values of type {}",
        DTypeName(geometry.dtype));
  return {.dtype = geometry.dtype, .head_dim = geometry.head_dim};
}

}  // namespace

uint64_t KvCache::BlockBytes(const KvGeometry& geometry) {
  return static_cast<uint64_t>(geometry.num_layers * geometry.num_kv_heads * LayoutOf(geometry).bytes());
}

uint64_t KvCache::Bytes(const KvGeometry& geometry, int32_t num_blocks) {
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(BlockBytes(geometry), static_cast<uint64_t>(num_blocks), &bytes)) {
    throw Error("KV cache: expected less than 2^64 bytes, got {} blocks of {}", num_blocks,
                BlockBytes(geometry));
  }
  return bytes;
}

KvCache::KvCache(const KvGeometry& geometry, int32_t num_blocks)
    : geometry_(geometry), num_blocks_(num_blocks), memory_(Bytes(geometry, num_blocks), "KV cache") {}

KvView KvCache::View(int64_t layer, std::span<const BlockId> block_table) const {
  const KvLayout layout = LayoutOf(geometry_);
  const int64_t head_stride = num_blocks_ * layout.bytes();
  return {.layer = memory_.bytes().data() + layer * geometry_.num_kv_heads * head_stride,
          .head_stride = head_stride,
          .block_table = block_table.data(),
          .kv_heads = geometry_.num_kv_heads,
          .layout = layout};
}

}  // namespace fiddler
