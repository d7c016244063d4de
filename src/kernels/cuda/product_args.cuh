// What kernels of products are given: pieces of work, and where their operands are.
#pragma once

#include "kernels/cuda/product.cuh"

namespace fiddler::cuda {

// Some tokens that go through the same slices (experts/slice.h), or a whole matrix as one slice. A pair is a
// token of a piece; pairs of all pieces are numbered one after another.
struct Piece {
  const std::byte* slices;
  const float* weights;  // [tokens] on the device, or null
  int num_slices;
  int tokens;
  int first_row;  // of x, where rows have no list
  int first_pair;
};

// Arrays for a kernel, the pieces first: in its parameters if they fit, so that nothing has to be copied.
struct Tables {
  static constexpr int kBytesHere = 3072;  // of the 4 KiB that parameters may have

  const std::byte* there;  // or null: here
  alignas(16) std::byte here[kBytesHere];

  template <typename T>
  __device__ const T* At(int64_t offset) const {
    return reinterpret_cast<const T*>((there != nullptr ? there : here) + offset);
  }
  __device__ const Piece& piece(unsigned i) const { return At<Piece>(0)[i]; }
};

// y = w x for the tokens of pieces, where w is the same matrix of every slice:
//   gate_up  h = silu(gate x) * (up x) for the neurons of each slice, side by side
//   else     y = the sum over slices s of w_s x_s + bias, where the slices' x lie side by side
struct ProductArgs {
  ProductX x;             // cols: of a slice
  const int32_t* rows;    // of x by pair; or null, see next
  int64_t rows_at;        // the same, in tables; or -1: rows one after another
  bool x_vectors;         // float32 x may be read 16 bytes at a time
  bool x_by_pair;         // x has a row for each pair
  int64_t matrix_offset;  // bytes of a slice before the matrix
  int64_t slice_bytes;
  int64_t panel_bytes;
  int panels;  // of the matrix
  int blocks;  // of k
  int groups;  // of columns
  int matrix_rows;
  int splits;          // parts of k, each with sums of its own (streaming kernels only)
  const float* bias;   // [matrix_rows] or null; only without splits
  void* out;           // float [splits, pairs, out_stride]; h rounded to BF16 where out_is_bf16
  int64_t out_stride;  // elements
  int64_t split_stride;
  bool out_is_bf16;
  bool vectors;  // out may be written 16 bytes at a time

  __device__ int64_t RowOf(const Tables& tables, const Piece& piece, int token) const {
    if (x_by_pair) return piece.first_pair + token;
    if (rows != nullptr) return rows[piece.first_pair + token];
    if (rows_at >= 0) return tables.At<int32_t>(rows_at)[piece.first_pair + token];
    return piece.first_row + token;
  }
  // A panel of a piece, numbered through its slices.
  __device__ const std::byte* PanelOf(const Piece& piece, int panel) const {
    return piece.slices + panel / panels * slice_bytes + matrix_offset + panel % panels * panel_bytes;
  }
};

// The rows of x of some tokens of a piece.
struct TokenRows {
  const ProductArgs& args;
  const Tables& tables;
  const Piece& piece;
  int first_token;

  // Tokens behind the last are the last: what they give is not used.
  __device__ int64_t operator()(int token) const {
    const int t = first_token + token;
    return args.RowOf(tables, piece, t < piece.tokens ? t : piece.tokens - 1);
  }
};

// Where the blocks of a panel lie, which goes on in the next slice where it ends. Offsets count 16 bytes, in
// 32 bits, for want of registers: slices are multiples of 64 bytes, and a piece's are below 64 GiB.
class BlockCursor {
 public:
  __device__ BlockCursor(const ProductArgs& args, int block, int block_bytes)
      : block_chunks_(block_bytes / 16), block_(block) {
    Settle(args);
  }
  __device__ void Move(const ProductArgs& args, int blocks) {
    block_ += blocks;
    Settle(args);
  }
  __device__ int block() const { return block_; }  // of the slice
  __device__ uint32_t offset16() const {
    return slice_offset_ + static_cast<uint32_t>(block_) * static_cast<uint32_t>(block_chunks_);
  }
  __device__ int64_t offset() const { return int64_t{offset16()} * 16; }

 private:
  __device__ void Settle(const ProductArgs& args) {
    while (block_ >= args.blocks) {
      block_ -= args.blocks;
      slice_offset_ += static_cast<uint32_t>(args.slice_bytes / 16);
    }
  }
  int block_chunks_;
  int block_;
  uint32_t slice_offset_ = 0;
};

__device__ __forceinline__ float SiluTimes(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

}  // namespace fiddler::cuda
