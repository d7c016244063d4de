// Keys and values of every layer in host memory, paged: a sequence owns a list of blocks (its block table) of
// kBlockTokens positions each; any sequence can use any block. Float32 or BF16. Who has which block is the
// business of a BlockPool.
//
// Layout: [layer][kv_head][block], a block as kernels/kv_view.h says. The kernels write and read it
// (kv_write, attend).
#pragma once

#include <cstdint>
#include <span>

#include "base/memory.h"
#include "kernels/kv_view.h"
#include "kv/block_pool.h"

namespace fiddler {

struct KvGeometry {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kF32;  // or kBF16: half the memory, to three digits
};

class KvCache {
 public:
  // Positions a block holds.
  static constexpr int64_t kBlockTokens = KvLayout::kBlockTokens;

  static int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }
  // Bytes of one block in all layers.
  static uint64_t BlockBytes(const KvGeometry& geometry);
  // Bytes of so many blocks. Throws Error where that is more than can be counted.
  static uint64_t Bytes(const KvGeometry& geometry, int32_t num_blocks);

  // Throws Error if memory is short.
  KvCache(const KvGeometry& geometry, int32_t num_blocks);

  // For the kernels, valid as long as the table.
  KvView View(int64_t layer, std::span<const BlockId> block_table) const;

 private:
  KvGeometry geometry_;
  int32_t num_blocks_;
  HugePageBuffer memory_;
};

}  // namespace fiddler
