// Where keys and values lie in the KV cache. The layout is made for the kernels: a register of keys or values
// meets one number of a query, or one weight, in every lane, so that no sum ever crosses a register.
//
// A block holds 32 positions of one KV head of one layer, in cells of 4 bytes: one float, or two BF16.
//   block          keys, then values
//   keys, F32      [head_dim][32 positions]
//         BF16     [head_dim / 2][32 positions][2 dimensions]
//   values, F32    [head_dim / 32][32 positions][32 dimensions]
//           BF16   [head_dim / 32][16 pairs of positions][32 dimensions][2 positions]
// Divisions round up. An odd head_dim leaves half a cell of each key, which is zero; values of dimensions
// past head_dim, and all positions nobody wrote, may hold anything.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace fiddler {

// Cells of one block. dtype is F32 or BF16.
struct KvLayout {
  static constexpr int64_t kBlockTokens = 32;
  static constexpr int64_t kCellBytes = 4;
  static constexpr int64_t kValueDims = 32;  // a run of dimensions of all the block's values: two registers

  DType dtype = DType::kF32;
  int64_t head_dim = 0;

  [[gnu::always_inline]] constexpr int64_t pack() const { return dtype == DType::kBF16 ? 2 : 1; }
  [[gnu::always_inline]] constexpr int64_t key_rows() const { return (head_dim + pack() - 1) / pack(); }
  [[gnu::always_inline]] constexpr int64_t value_runs() const {
    return (head_dim + kValueDims - 1) / kValueDims;
  }
  [[gnu::always_inline]] constexpr int64_t key_cells() const { return key_rows() * kBlockTokens; }
  [[gnu::always_inline]] constexpr int64_t value_cells() const {
    return value_runs() * kValueDims * kBlockTokens / pack();
  }
  [[gnu::always_inline]] constexpr int64_t bytes() const {
    return (key_cells() + value_cells()) * kCellBytes;
  }

  // Of one number in the keys, or in the values, of a block: counted in elements of dtype.
  [[gnu::always_inline]] constexpr int64_t KeyIndex(int64_t token, int64_t dim) const {
    return (dim / pack() * kBlockTokens + token) * pack() + dim % pack();
  }
  [[gnu::always_inline]] constexpr int64_t ValueIndex(int64_t token, int64_t dim) const {
    const int64_t row = dim / kValueDims * (kBlockTokens / pack()) + token / pack();
    return (row * kValueDims + dim % kValueDims) * pack() + token % pack();
  }
};

// One layer's keys and values of one sequence: position p is in block block_table[p / 32] of each KV head.
// All blocks of a head lie together, so that the long run of a sequence is read in order. Owns nothing.
struct KvView {
  std::byte* layer = nullptr;            // block 0 of KV head 0
  int64_t head_stride = 0;               // bytes from one KV head to the next
  const int32_t* block_table = nullptr;  // the sequence's blocks
  int64_t kv_heads = 0;
  KvLayout layout;

  [[gnu::always_inline]] std::byte* Keys(int64_t block, int64_t kv_head) const {
    return layer + kv_head * head_stride + block_table[block] * layout.bytes();
  }
  [[gnu::always_inline]] std::byte* Values(int64_t block, int64_t kv_head) const {
    return Keys(block, kv_head) + layout.key_cells() * KvLayout::kCellBytes;
  }
};

}  // namespace fiddler
