// What MatMul and Ffn have in common on the host: x rounded, products launched, and which kernel a product
// gets.
#pragma once

#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "kernels/cuda/product_args.cuh"
#include "kernels/ops.h"

namespace fiddler::cuda {

WeightFormat FormatOf(const char* what, int32_t format);
Rounding RoundingOf(const char* what, int32_t rounding, WeightFormat format);

// Bytes of `rows` rows of x, rounded; a multiple of 256, and 0 with kNone.
uint64_t RoundedBytes(Rounding rounding, int64_t rows, int64_t cols);
// Queues the rounding of rows of x, [.., cols], to `to`.
ProductX RoundX(OpContext& context, const char* what, Rounding rounding, int64_t rows, const float* x,
                const int32_t* row_index, int64_t cols, std::byte* to);

// Arguments of a product with such a matrix, but for x, out and where it lies.
ProductArgs ArgsFor(const PackedMatrix& shape);

// How much of everything there is, of all pieces the most.
struct ProductExtent {
  int64_t panels;  // of all slices, if gate_up
  int64_t tokens;
  int64_t pieces;
};

// Kernels of product_stream.cuh and product_tiled.cuh. Streaming ones do any rounding and number of tokens.
enum class Form { kStream, kTiled };
inline constexpr int64_t kMostStreamTokens = 64;
constexpr Form FormOf(Rounding rounding, int64_t tokens) {
  return rounding == Rounding::kNone || tokens <= kMostStreamTokens ? Form::kStream : Form::kTiled;
}
// So few that a streaming kernel rounds x itself: no launch for it, and no memory. Not beside INT4 weights:
// they are so few bytes that rounding a block of x takes longer (460 instructions for 1,152 bytes, by the
// listing for sm_90) than reading them.
constexpr bool RoundsItself(Rounding rounding, int64_t tokens) {
  return (rounding == Rounding::kBF16 || rounding == Rounding::kInt8Group64) && tokens <= 8;
}
// x as it is, [.., cols]; what exact products and those that round it themselves take.
ProductX FloatX(const float* x, int64_t cols);
// Tokens that share a pass over the weights.
constexpr int64_t StreamTokens(Rounding rounding, int64_t tokens) {
  if (rounding == Rounding::kNone) return tokens == 1 ? 1 : 8;
  if (tokens <= 16) return tokens <= 8 ? 8 : 16;
  return tokens <= 32 || rounding != Rounding::kBF16 ? 32 : 64;  // whole numbers lack registers for more
}

// Parts to cut k into, so that nearly every SM has a thread block (product_stream.cuh says why that is
// enough): at most 16, and in a part two blocks of k for each of 8 warps.
constexpr int64_t StreamSplits(int64_t thread_blocks, int64_t k_blocks, int num_sms) {
  constexpr int64_t kMost = 16;
  const int64_t wanted = (num_sms * int64_t{7} / 8 + thread_blocks - 1) / thread_blocks;
  const int64_t possible = k_blocks / 16;
  const int64_t splits = wanted < possible ? wanted : possible;
  return splits < 1 ? 1 : splits < kMost ? splits : kMost;
}

struct ProductKernel {
  WeightFormat format;
  Rounding rounding;
  bool gate_up;
  bool rounds_x = false;  // a streaming kernel's x is float32 (RoundsItself)
};
void LaunchStream(OpContext& context, const char* what, const ProductKernel& kernel, const Tables& tables,
                  const ProductArgs& args, const ProductExtent& extent);
void LaunchTiled(OpContext& context, const char* what, const ProductKernel& kernel, const Tables& tables,
                 const ProductArgs& args, const ProductExtent& extent);

}  // namespace fiddler::cuda
