// Products of any weights with float32 x on the cores of old: what an exact run and routers need. Each lane
// has four rows of one of four word rows, and a sum for each of its tokens.
#pragma once

#include "kernels/cuda/product_args.cuh"

namespace fiddler::cuda {

__device__ __forceinline__ float FloatOfF16(uint32_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  if ((half & 0x7c00u) == 0x7c00u) return FloatOfBits(sign | 0x7f800000u | (half & 0x3ffu) << 13);
  return FloatOfBits(sign | BitsOfFloat(FloatOfBits((half & 0x7fffu) << 13) * 0x1p112f));
}

// The weights of rows 4 g to 4 g + 3 in the columns of a word row.
template <WeightFormat kFormat>
struct ExactWordRow {
  // Columns, of which INT4's are two word rows, and word rows of a block.
  static constexpr int kCols = kFormat == WeightFormat::kInt4   ? 8
                               : kFormat == WeightFormat::kInt8 ? 4
                               : kFormat == WeightFormat::kBF16 ? 2
                                                                : 1;
  static constexpr int kPerBlock = KBlock<kFormat>::kCols / kCols;

  uint4 words;
  float scales[4];

  __device__ __forceinline__ void Load(const std::byte* block, int row, int g) {
    if constexpr (kFormat == WeightFormat::kF16) {
      const uint2 halves = *reinterpret_cast<const uint2*>(block + row * 64 + 8 * g);
      words = make_uint4(halves.x, halves.y, 0, 0);
    } else {
      int64_t offset = row * 128;
      if constexpr (kFormat == WeightFormat::kInt8 || kFormat == WeightFormat::kInt4) {
        const int group = kFormat == WeightFormat::kInt4 ? row / 4 : 0;
        const auto pairs = *reinterpret_cast<const uint2*>(block + group * (64 + 512) + 8 * g);
        scales[0] = LowBf16(pairs.x);
        scales[1] = HighBf16(pairs.x);
        scales[2] = LowBf16(pairs.y);
        scales[3] = HighBf16(pairs.y);
        offset += 64 * (group + 1);
      }
      words = LoadOnce(reinterpret_cast<const uint4*>(block + offset + 16 * g));
    }
  }

  // Of row 4 g + r, column c.
  __device__ __forceinline__ float Weight(int r, int c) const {
    const uint32_t word = r == 0 ? words.x : r == 1 ? words.y : r == 2 ? words.z : words.w;
    if constexpr (kFormat == WeightFormat::kF32) return FloatOfBits(word);
    if constexpr (kFormat == WeightFormat::kF16) {
      const uint32_t pair = r < 2 ? words.x : words.y;
      return FloatOfF16(r % 2 == 0 ? pair & 0xffffu : pair >> 16);
    }
    if constexpr (kFormat == WeightFormat::kBF16) return c == 0 ? LowBf16(word) : HighBf16(word);
    if constexpr (kFormat == WeightFormat::kInt8) {
      return scales[r] * static_cast<float>(static_cast<int>(word >> 8 * c & 0xff) - 128);
    }
    const int shift = 8 * (c % 4) + c / 4 * 4;
    return scales[r] * static_cast<float>(static_cast<int>(word >> shift & 0xf) - 8);
  }
};

// The part of a streaming kernel (product_stream.cuh) that a warp does.
template <WeightFormat kFormatOf, int kTokensOf>
struct ExactProduct {
  static constexpr WeightFormat kFormat = kFormatOf;
  static constexpr int kTokens = kTokensOf;
  static constexpr int kBlocksPerSm = kFormat == WeightFormat::kInt8 && kTokens > 1 ? 1 : 2;

  // Blocks first, first + step, .. before `end` of a panel, to partial [token][stride]. The memory is what
  // limits it with one token; with more the loads of x, of which there is one for four multiplications.
  __device__ static void Multiply(const ProductArgs& args, const TokenRows& rows, const std::byte* panel,
                                  int first, int end, int step, float* partial, int stride) {
    using Words = ExactWordRow<kFormat>;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int q = lane % 4;
    const auto* const x = static_cast<const float*>(args.x.values);
    int64_t x_rows[kTokens];
    FIDDLER_UNROLL
    for (int t = 0; t < kTokens; ++t) x_rows[t] = rows(t) * args.x.stride;
    float sums[kTokens][4] = {};
    BlockCursor cursor(args, first, KBlock<kFormat>::kBytes);
    for (int b = first; b < end; b += step) {
      const int64_t before = int64_t{b / args.blocks} * args.x.cols;  // columns of slices before this one
      FIDDLER_UNROLL
      for (int i = 0; i < Words::kPerBlock / 4; ++i) {
        const int row = 4 * i + q;
        const int col = cursor.block() * KBlock<kFormat>::kCols + row * Words::kCols;
        if (col >= args.x.cols) continue;
        Words w;
        w.Load(panel + cursor.offset(), row, g);
        FIDDLER_UNROLL
        for (int c = 0; c < Words::kCols; ++c) {
          if (col + c >= args.x.cols) break;
          const float weights[4] = {w.Weight(0, c), w.Weight(1, c), w.Weight(2, c), w.Weight(3, c)};
          FIDDLER_UNROLL
          for (int t = 0; t < kTokens; ++t) {
            const float value = x[x_rows[t] + before + col + c];
            FIDDLER_UNROLL
            for (int r = 0; r < 4; ++r) sums[t][r] += weights[r] * value;
          }
        }
      }
      cursor.Move(args, step);
    }
    FIDDLER_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      FIDDLER_UNROLL
      for (int r = 0; r < 4; ++r) {
        sums[t][r] += __shfl_xor_sync(kWholeWarp, sums[t][r], 1);
        sums[t][r] += __shfl_xor_sync(kWholeWarp, sums[t][r], 2);
      }
      if (t % 4 == q) {
        *reinterpret_cast<float4*>(partial + t * stride + 4 * g) =
            make_float4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
      }
    }
  }
};

}  // namespace fiddler::cuda
