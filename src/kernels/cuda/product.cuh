// Products of packed weights (kernels/packed_matrix.h) on tensor cores: what streaming kernels
// (product_stream.cuh) and tiled ones (product_tiled.cuh) share.
//
// Weights are the rows of the tensor cores' a, tokens the columns of b. A lane 4 g + q that loads 16 bytes of
// a panel at chunk g of a row of 128 bytes ("word row": a word each of 32 rows) has words of the rows 4 g to
// 4 g + 3: with another word row, words of both fragments of k that an mma of 16 rows wants of a lane, when
// row g of mma j is called row 4 g + 2 j and row g + 8 is called 4 g + 2 j + 1. So two mma do a panel, and no
// weight is moved between lanes. Which word rows a lane takes is free as long as x comes in the same order.
//
// A block of k is 16 words of x a token, 64 bytes, 16 of them for each q:
//
//   format  columns  bytes of a panel  lane q takes word rows
//   BF16         32              2048  4 q to 4 q + 3
//   INT8         64         64 + 2048  the same: quads of a group
//   INT4         64      2 (64 + 512)  q of each group: low halves are a word row, high halves the next
//
// Whole numbers are unsigned in weights, q + offset. The sum over a group begins at minus the offset times
// the sum of x (which rounding x leaves beside its scale), so nothing has to be subtracted.
#pragma once

#include "kernels/cuda/intrinsics.cuh"
#include "kernels/packed_matrix.h"

namespace fiddler::cuda {

inline constexpr int kRows = static_cast<int>(kPanelRows);

// x of a product, in one of two forms: float32 as it is, or rounded by RoundKernel.
struct ProductX {
  const void* values;   // float [.., stride], or words [.., stride], stride a multiple of 16
  int64_t stride;       // elements
  const uint2* scales;  // of INT8 and INT4 weights: [.., scale_stride] of {scale, int32 to begin sums at}
  int64_t scale_stride;
  int cols;
};

// Some k of a panel.
template <WeightFormat kFormat>
struct KBlock;
template <>
struct KBlock<WeightFormat::kF32> {
  static constexpr int kCols = 16, kGroups = 16, kBytes = 16 * 128;
};
template <>
struct KBlock<WeightFormat::kF16> {
  static constexpr int kCols = 16, kGroups = 16, kBytes = 16 * 64;
};
template <>
struct KBlock<WeightFormat::kBF16> {
  static constexpr int kCols = 32, kGroups = 16, kBytes = 16 * 128;
  static constexpr int kScales = 0, kWordRows = 16, kLoads = 4;
};
template <>
struct KBlock<WeightFormat::kInt8> {
  static constexpr int kCols = 64, kGroups = 1, kBytes = 64 + 16 * 128;
  static constexpr int kScales = 1, kWordRows = 16, kLoads = 4;
};
template <>
struct KBlock<WeightFormat::kInt4> {
  static constexpr int kCols = 64, kGroups = 2, kBytes = 2 * (64 + 4 * 128);
  static constexpr int kScales = 2, kWordRows = 8, kLoads = 2;
};

// What a lane has of a block of a panel.
template <WeightFormat kFormat>
struct PanelBlock {
  uint4 words[KBlock<kFormat>::kLoads];
  uint2 scales[2];  // of four rows each, BF16; as many as kScales
};

// Where load i of lane q's finds its word row, of kWordRows in a block.
template <WeightFormat kFormat>
__device__ __forceinline__ int WordRow(int q, int i) {
  return kFormat == WeightFormat::kInt4 ? 4 * i + q : 4 * q + i;
}
// Bytes of a block before that word row.
template <WeightFormat kFormat>
__device__ __forceinline__ int WordRowOffset(int row) {
  if constexpr (kFormat == WeightFormat::kInt8) return 64 + row * 128;
  if constexpr (kFormat == WeightFormat::kInt4) return (row / 4 + 1) * 64 + row * 128;
  return row * 128;
}
// Groups of a block that word row `row` is behind.
template <WeightFormat kFormat>
__device__ __forceinline__ int GroupOfWordRow(int row) {
  return kFormat == WeightFormat::kBF16 ? row : kFormat == WeightFormat::kInt4 ? row / 4 : 0;
}

// From global memory. `groups`: that there are from this block on; the others are zeros.
template <WeightFormat kFormat>
__device__ __forceinline__ void LoadBlock(const std::byte* block, int groups, int g, int q,
                                          PanelBlock<kFormat>& out) {
  FIDDLER_UNROLL
  for (int i = 0; i < KBlock<kFormat>::kScales; ++i) {
    out.scales[i] = make_uint2(0, 0);
    if (i < groups) out.scales[i] = *reinterpret_cast<const uint2*>(block + i * (64 + 512) + 8 * g);
  }
  FIDDLER_UNROLL
  for (int i = 0; i < KBlock<kFormat>::kLoads; ++i) {
    const int row = WordRow<kFormat>(q, i);
    out.words[i] = make_uint4(0, 0, 0, 0);
    if (GroupOfWordRow<kFormat>(row) < groups) {
      out.words[i] = LoadOnce(reinterpret_cast<const uint4*>(block + WordRowOffset<kFormat>(row) + 16 * g));
    }
  }
}

// The sums of a lane for a panel and 8 tokens, [mma][..] as MmaBf16 has them.
using PanelSums = float[2][4];
// As rows: of token 2 q + i, row 4 g + r.
__device__ __forceinline__ float4 RowsOf(const PanelSums& sums, int i) {
  return make_float4(sums[0][i], sums[0][2 + i], sums[1][i], sums[1][2 + i]);
}

// sums += block x. `x`: words 4 q to 4 q + 3 of token g. `token_scales`: [group][token 2 q, 2 q + 1].
template <WeightFormat kFormat>
__device__ __forceinline__ void MultiplyBlock(const PanelBlock<kFormat>& w, const uint4& x,
                                              const uint2 (&token_scales)[2][2], PanelSums& sums) {
  if constexpr (kFormat == WeightFormat::kBF16) {
    const uint32_t a0[4] = {w.words[0].x, w.words[0].y, w.words[1].x, w.words[1].y};
    const uint32_t a1[4] = {w.words[0].z, w.words[0].w, w.words[1].z, w.words[1].w};
    const uint32_t a2[4] = {w.words[2].x, w.words[2].y, w.words[3].x, w.words[3].y};
    const uint32_t a3[4] = {w.words[2].z, w.words[2].w, w.words[3].z, w.words[3].w};
    MmaBf16(sums[0], a0, x.x, x.y);
    MmaBf16(sums[1], a1, x.x, x.y);
    MmaBf16(sums[0], a2, x.z, x.w);
    MmaBf16(sums[1], a3, x.z, x.w);
  } else {
    int32_t whole[2][4];
    FIDDLER_UNROLL
    for (int step = 0; step < 2; ++step) {  // of 32 columns
      constexpr bool kIsInt4 = kFormat == WeightFormat::kInt4;
      const int group = kIsInt4 ? step : 0;
      const int lows = kIsInt4 ? step : 2 * step;
      uint4 low = w.words[lows];
      uint4 high = w.words[kIsInt4 ? lows : lows + 1];
      if constexpr (kIsInt4) {
        constexpr uint32_t kHalves = 0x0f0f0f0fu;
        high = make_uint4(high.x >> 4 & kHalves, high.y >> 4 & kHalves, high.z >> 4 & kHalves,
                          high.w >> 4 & kHalves);
        low = make_uint4(low.x & kHalves, low.y & kHalves, low.z & kHalves, low.w & kHalves);
      }
      if (kIsInt4 || step == 0) {
        FIDDLER_UNROLL
        for (int i = 0; i < 8; ++i) whole[i / 4][i % 4] = static_cast<int32_t>(token_scales[group][i % 2].y);
      }
      const uint32_t a0[4] = {low.x, low.y, high.x, high.y};
      const uint32_t a1[4] = {low.z, low.w, high.z, high.w};
      MmaU8S8(whole[0], a0, step == 0 ? x.x : x.z, step == 0 ? x.y : x.w);
      MmaU8S8(whole[1], a1, step == 0 ? x.x : x.z, step == 0 ? x.y : x.w);
      if (kIsInt4 || step == 1) {
        const uint2 scales = w.scales[group];
        const float row_scales[4] = {LowBf16(scales.x), HighBf16(scales.x), LowBf16(scales.y),
                                     HighBf16(scales.y)};
        FIDDLER_UNROLL
        for (int i = 0; i < 8; ++i) {
          const float scale = row_scales[i / 4 * 2 + i % 4 / 2] * FloatOfBits(token_scales[group][i % 2].x);
          sums[i / 4][i % 4] += static_cast<float>(whole[i / 4][i % 4]) * scale;
        }
      }
    }
  }
}

// The scales of the lane's two tokens for a block; `at`: those of the tokens' first groups.
template <WeightFormat kFormat>
__device__ __forceinline__ void LoadTokenScales(const uint2* scales, const uint32_t (&at)[2], int block,
                                                uint2 (&out)[2][2]) {
  constexpr int kScales = KBlock<kFormat>::kScales;
  FIDDLER_UNROLL
  for (int i = 0; i < 2 * kScales; ++i) {
    out[i / 2][i % 2] = scales[at[i % 2] + static_cast<uint32_t>(block * kScales + i / 2)];
  }
}

// The scale of a group of x, as Int8Scale of kernels/rounding.h.
struct GroupScale {
  float scale;
  float inverse;  // or 0: all whole numbers are 0

  // `bits`: the largest magnitude as a whole number, so that a NaN is the largest.
  static __device__ __forceinline__ GroupScale Of(uint32_t bits) {
    // An infinity or a NaN makes all NaNs, whatever their whole numbers.
    if (bits >= 0x7f800000u) return {FloatOfBits(0x7fc00000u), 0.0f};
    const float largest = FloatOfBits(bits);
    if (largest < 0x1p-100f) return {0.0f, 0.0f};
    return {largest / 127.0f, 127.0f / largest};
  }
  // An infinity times 0 is no whole number.
  __device__ __forceinline__ int Round(float value) const {
    return inverse > 0 ? static_cast<int>(rintf(value * inverse)) : 0;
  }
};
__device__ __forceinline__ uint32_t MagnitudeBits(float value) { return BitsOfFloat(value) & 0x7fffffffu; }

// What x is rounded to, as Rounding (kernels/ops.h), for kernels.
enum class XForm { kBf16, kInt8Of64, kInt8Of32 };

inline constexpr int kRoundThreads = 256;

// Rounds rows of x as kernels/rounding.h does. A warp does 64 columns of a row, a lane two of them. Reads 4
// bytes a number and writes 2 or 1: the memory is what limits it. Columns past the last become zeros, up to
// 64.
template <XForm kForm>
__global__ void __launch_bounds__(kRoundThreads)
    RoundKernel(int64_t rows, const float* x, int64_t x_stride, const int32_t* row_index, int cols,
                uint32_t* words, int64_t stride, uint2* scales) {
  const int chunks = (cols + 63) / 64;
  const int64_t warp = (int64_t{blockIdx.x} * kRoundThreads + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = warp / chunks;
  if (row >= rows) return;  // the whole warp
  const int chunk = static_cast<int>(warp % chunks);
  const int col = chunk * 64 + 2 * lane;
  const float* const from = x + (row_index != nullptr ? row_index[row] : row) * x_stride;
  const float a = col < cols ? from[col] : 0.0f;
  const float b = col + 1 < cols ? from[col + 1] : 0.0f;
  words += row * stride;
  if constexpr (kForm == XForm::kBf16) {
    words[col / 2] = PackBf16(a, b);
  } else {
    constexpr int kLanes = kForm == XForm::kInt8Of64 ? 32 : 16;  // of a group
    const uint32_t a_bits = MagnitudeBits(a);
    const uint32_t b_bits = MagnitudeBits(b);
    uint32_t largest_bits = a_bits > b_bits ? a_bits : b_bits;
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      const uint32_t other = __shfl_xor_sync(kWholeWarp, largest_bits, static_cast<unsigned>(lanes));
      largest_bits = other > largest_bits ? other : largest_bits;
    }
    const GroupScale group = GroupScale::Of(largest_bits);
    const int a_whole = group.Round(a);
    const int b_whole = group.Round(b);
    int sum = a_whole + b_whole;
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, static_cast<unsigned>(lanes));
    }
    int word = lane / 2;
    // Lane q of a product takes words 2 q and 2 q + 1 of both groups of a block.
    if constexpr (kForm == XForm::kInt8Of32) word = word % 8 / 2 * 4 + word / 8 * 2 + word % 2;
    auto* const halves = reinterpret_cast<uint16_t*>(words + chunk * 16 + word);
    halves[lane % 2] = static_cast<uint16_t>((a_whole & 0xff) | (b_whole & 0xff) << 8);
    constexpr int kOffset = kForm == XForm::kInt8Of64 ? 128 : 8;
    if (lane % kLanes == 0) {
      scales[row * chunks * (kWarp / kLanes) + chunk * (kWarp / kLanes) + lane / kLanes] =
          make_uint2(BitsOfFloat(group.scale), static_cast<uint32_t>(-kOffset * sum));
    }
  }
}

}  // namespace fiddler::cuda
