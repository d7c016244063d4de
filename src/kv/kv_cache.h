// Keys and values of every layer, paged: a sequence owns a list of blocks (its block table) of kBlockTokens
// positions each; any sequence can use any block. Float32.
//
// Layout: [layer][block][keys | values][kv_head][position in block][head_dim]; see KvView in kernels/ops.h.
// Writers of different (layer, position) may run on different threads.
#pragma once

#include <cstdint>
#include <span>

#include "base/memory.h"
#include "kernels/ops.h"
#include "kv/block_pool.h"

namespace fiddler {

struct KvGeometry {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
};

class KvCache {
 public:
  // Positions a block holds: a whole number of vector registers, little waste at a sequence's end.
  static constexpr int64_t kBlockTokens = 32;

  static int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }
  // Bytes of one block in all layers.
  static uint64_t BlockBytes(const KvGeometry& geometry);

  // Throws Error if memory is short.
  KvCache(const KvGeometry& geometry, int32_t num_blocks);

  BlockPool& pool() { return pool_; }

  // Stores one position's key and value, each [num_kv_heads, head_dim].
  void Write(int64_t layer, std::span<const BlockId> block_table, int64_t position, const float* key,
             const float* value);

  KvView View(int64_t layer, std::span<const BlockId> block_table) const;

 private:
  float* Layer(int64_t layer) const;

  KvGeometry geometry_;
  int64_t block_stride_;  // elements of one block in one layer
  HugePageBuffer memory_;
  BlockPool pool_;
};

}  // namespace fiddler
