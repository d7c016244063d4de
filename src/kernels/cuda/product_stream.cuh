// Products with few tokens: every weight is read once, straight from memory to the lane that multiplies it,
// and the memory is what limits them.
//
// A block of 8 warps does one panel, or a part of its k, for up to 64 tokens. Warps take turns through the
// blocks of k and add their sums in the end, in the order of warps: same operands, same bits. What a token
// gets does not depend on the other tokens of the call but by which kernel their number asks for.
//
// Bytes in flight. HBM of 3.35 TB/s and 0.7 us asks for 2.3 MB, 18 KB for each of 132 SMs. A warp has two
// blocks of BF16 or INT8 on their way, 4 KB (INT4: four, 4.6 KB), a block of threads 32 KB: one for each SM
// is enough, and so is any grid of about as many blocks as SMs (op_product.cu splits k where there are
// fewer).
#pragma once

#include "kernels/cuda/product_args.cuh"
#include "kernels/cuda/product_exact.cuh"

namespace fiddler::cuda {

inline constexpr int kStreamWarps = 8;
inline constexpr int kStreamThreads = kStreamWarps * kWarp;
// Floats from token to token of the sums of a warp in shared memory: lanes 4 g + q of a quarter of a warp
// write 16 bytes to tokens 2 q at rows 4 g, and 2 * 36 is 8 modulo 32 banks: each to banks of its own.
inline constexpr int kPartialStride = kRows + 4;

// What RoundKernel and LoadTokenScales would give a lane for a block of k, from x itself: for so few tokens
// that doing it again for each panel costs less than a launch. `x`: the block in the row of token g, `cols`
// that there are from there on; `vectors`: 16 bytes at a time.
template <WeightFormat kFormat>
__device__ __forceinline__ void RoundBlock(const float* x, int cols, bool vectors, int q, uint4& words,
                                           uint2 (&token_scales)[2][2]) {
  static_assert(kFormat == WeightFormat::kBF16 || kFormat == WeightFormat::kInt8);
  constexpr int kValues = kFormat == WeightFormat::kBF16 ? 8 : 16;
  float values[kValues];
  FIDDLER_UNROLL
  for (int i = 0; i < kValues; i += 4) {
    const int col = kValues * q + i;
    if (vectors) {
      float4 four = make_float4(0, 0, 0, 0);
      if (col < cols) four = *reinterpret_cast<const float4*>(x + col);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    } else {
      FIDDLER_UNROLL
      for (int j = 0; j < 4; ++j) values[i + j] = col + j < cols ? x[col + j] : 0.0f;
    }
  }
  if constexpr (kFormat == WeightFormat::kBF16) {
    words = make_uint4(PackBf16(values[0], values[1]), PackBf16(values[2], values[3]),
                       PackBf16(values[4], values[5]), PackBf16(values[6], values[7]));
  } else {
    uint32_t largest = 0;
    FIDDLER_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const uint32_t bits = MagnitudeBits(values[i]);
      largest = bits > largest ? bits : largest;
    }
    FIDDLER_UNROLL
    for (unsigned lanes = 1; lanes <= 2; ++lanes) {
      const uint32_t other = __shfl_xor_sync(kWholeWarp, largest, lanes);
      largest = other > largest ? other : largest;
    }
    const GroupScale scale = GroupScale::Of(largest);
    uint32_t packed[4];
    int sum = 0;
    FIDDLER_UNROLL
    for (int i = 0; i < kValues; i += 4) {
      uint32_t word = 0;
      FIDDLER_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int whole = scale.Round(values[i + j]);
        sum += whole;
        word |= (static_cast<uint32_t>(whole) & 0xff) << 8 * j;
      }
      packed[i / 4] = word;
    }
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    FIDDLER_UNROLL
    for (int i = 0; i < 2; ++i) {
      const auto from = static_cast<unsigned>(4 * (2 * q + i));  // a lane of that token
      token_scales[0][i].x = BitsOfFloat(__shfl_sync(kWholeWarp, scale.scale, from));
      token_scales[0][i].y = static_cast<uint32_t>(__shfl_sync(kWholeWarp, -128 * sum, from));
    }
    words = make_uint4(packed[0], packed[1], packed[2], packed[3]);
  }
}

// On tensor cores, for tiles of 8 tokens. kRoundsX: x is float32 and rounded here.
template <WeightFormat kFormatOf, int kTiles, bool kRoundsX = false>
struct TensorProduct {
  static constexpr WeightFormat kFormat = kFormatOf;
  static constexpr int kTokens = 8 * kTiles;
  // As many as registers allow.
  static constexpr bool kIsBf16 = kFormat == WeightFormat::kBF16;
  static constexpr int kBlocksPerSm = kTiles <= (kIsBf16 ? 4 : 2) ? 2 : 1;
  // Blocks on their way.
  static constexpr int kDepth = kFormat == WeightFormat::kInt4 && kTiles == 1 ? 4 : 2;

  // As ExactProduct::Multiply.
  __device__ static void Multiply(const ProductArgs& args, const TokenRows& rows, const std::byte* panel,
                                  int first, int end, int step, float* partial, int stride) {
    constexpr bool kScaled = KBlock<kFormat>::kScales > 0 && !kRoundsX;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int q = lane % 4;
    // Where tokens are in x: in 32 bits, for want of registers.
    uint32_t x_at[kTiles];
    uint32_t scales_at[kTiles][2];
    FIDDLER_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      x_at[n] = static_cast<uint32_t>(rows(8 * n + g) * args.x.stride) +
                (kRoundsX ? 0 : 4 * static_cast<uint32_t>(q));
      for (int i = 0; i < 2; ++i) {
        scales_at[n][i] = kScaled ? static_cast<uint32_t>(rows(8 * n + 2 * q + i) * args.x.scale_stride) : 0;
      }
    }
    const auto* const x = static_cast<const uint32_t*>(args.x.values);
    const auto* const floats = static_cast<const float*>(args.x.values);

    PanelBlock<kFormat> ahead[kDepth];
    BlockCursor cursor(args, first, KBlock<kFormat>::kBytes);
    const auto load = [&](PanelBlock<kFormat>& block) {
      LoadBlock<kFormat>(panel + cursor.offset(), args.groups - cursor.block() * KBlock<kFormat>::kGroups, g,
                         q, block);
      cursor.Move(args, step);
    };
    FIDDLER_UNROLL
    for (int i = 0; i < kDepth; ++i) {
      if (first + i * step < end) load(ahead[i]);
    }
    PanelSums sums[kTiles] = {};
    for (int b = first; b < end; b += kDepth * step) {
      FIDDLER_UNROLL
      for (int i = 0; i < kDepth; ++i) {
        const int now = b + i * step;
        if (now >= end) break;
        FIDDLER_UNROLL
        for (int n = 0; n < kTiles; ++n) {
          uint4 words;
          uint2 token_scales[2][2];
          if constexpr (kRoundsX) {
            const int col = now * KBlock<kFormat>::kCols;
            RoundBlock<kFormat>(floats + x_at[n] + col, static_cast<int>(args.x.stride) - col, args.x_vectors,
                                q, words, token_scales);
          } else {
            words = *reinterpret_cast<const uint4*>(x + x_at[n] + static_cast<uint32_t>(now) * 16);
            LoadTokenScales<kFormat>(args.x.scales, scales_at[n], now, token_scales);
          }
          MultiplyBlock<kFormat>(ahead[i], words, token_scales, sums[n]);
        }
        if (now + kDepth * step < end) load(ahead[i]);
      }
    }
    FIDDLER_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      FIDDLER_UNROLL
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<float4*>(partial + (8 * n + 2 * q + i) * stride + 4 * g) = RowsOf(sums[n], i);
      }
    }
  }
};

template <typename Product>
constexpr size_t StreamSharedBytes() {
  return sizeof(float) * kStreamWarps * Product::kTokens * kPartialStride;
}

// Blocks: x panels (of all slices, if gate_up), y tiles of tokens times splits, z pieces.
template <typename Product, bool kGateUp>
__global__ void __launch_bounds__(kStreamThreads, Product::kBlocksPerSm)
    StreamKernel(const __grid_constant__ Tables tables, const ProductArgs args) {
  auto* const partial = reinterpret_cast<float*>(SharedMemory());  // [warps][tokens][kPartialStride]
  constexpr int kWarpFloats = Product::kTokens * kPartialStride;
  const Piece& piece = tables.piece(blockIdx.z);
  const auto panel = static_cast<int>(blockIdx.x);
  const int split = static_cast<int>(blockIdx.y) % args.splits;
  const int first_token = static_cast<int>(blockIdx.y) / args.splits * Product::kTokens;
  if (first_token >= piece.tokens || panel >= (kGateUp ? piece.num_slices : 1) * args.panels) return;

  const int blocks = (kGateUp ? 1 : piece.num_slices) * args.blocks;
  const int begin = static_cast<int>(int64_t{blocks} * split / args.splits);
  const int end = static_cast<int>(int64_t{blocks} * (split + 1) / args.splits);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const TokenRows rows = {args, tables, piece, first_token};
  Product::Multiply(args, rows, args.PanelOf(piece, panel), begin + warp, end, kStreamWarps,
                    partial + warp * kWarpFloats, kPartialStride);
  __syncthreads();

  const auto sum = [&](int token, int row) {
    float total = 0;
    for (int w = 0; w < kStreamWarps; ++w) total += partial[w * kWarpFloats + token * kPartialStride + row];
    return total;
  };
  const int left = piece.tokens - first_token;
  const int tokens = left < Product::kTokens ? left : Product::kTokens;
  const int64_t first_pair = piece.first_pair + first_token;
  if constexpr (kGateUp) {
    for (int i = thread; i < tokens * kRows / 2; i += kStreamThreads) {
      const int token = i / (kRows / 2);
      const int neuron = i % (kRows / 2);
      const float h = SiluTimes(sum(token, neuron), sum(token, neuron + kRows / 2));
      const int64_t at = (first_pair + token) * args.out_stride + panel * (kRows / 2) + neuron;
      if (args.out_is_bf16) {
        static_cast<uint16_t*>(args.out)[at] = static_cast<uint16_t>(PackBf16(h, 0));
      } else {
        static_cast<float*>(args.out)[at] = h;
      }
    }
  } else {
    float* const out = static_cast<float*>(args.out) + split * args.split_stride;
    for (int i = thread; i < tokens * kRows; i += kStreamThreads) {
      const int row = panel * kRows + i % kRows;
      if (row >= args.matrix_rows) continue;
      float total = sum(i / kRows, i % kRows);
      if (args.bias != nullptr) total += args.bias[row];
      out[(first_pair + i / kRows) * args.out_stride + row] = total;
    }
  }
}

}  // namespace fiddler::cuda
