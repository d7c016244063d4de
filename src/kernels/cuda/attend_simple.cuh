// Attention of any head_dim over a cache of either type, on ordinary arithmetic: for float32, and for models
// whose heads attend_tensor.cuh does not know.
#pragma once

#include "kernels/cuda/attend.cuh"

namespace fiddler::cuda {

inline constexpr int kSimpleThreads = 128;
inline constexpr int kSimpleRuns = 8;                    // of 32 dimensions, that one warp sums
inline constexpr int kSimpleDims = kSimpleRuns * kWarp;  // wider heads: the next warp, which scores again
inline constexpr int kSimpleLeastBlocks = 4;

// A warp for each query, split and kSimpleDims dimensions: a lane scores one position of a block, then sums
// values of every 32nd dimension. Reads keys and values once for each head, so `group` times from the second
// cache, which is what limits it.
template <bool kBf16>
__global__ void __launch_bounds__(kSimpleThreads) AttendSimpleKernel(AttendParams params) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warp =
      static_cast<int64_t>(blockIdx.x) * (kSimpleThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  const int chunks = (params.head_dim + kSimpleDims - 1) / kSimpleDims;
  const int first_dim = static_cast<int>(warp % chunks) * kSimpleDims;
  const int split = static_cast<int>(warp / chunks % params.splits);
  const int64_t query = warp / chunks / params.splits;
  if (query >= static_cast<int64_t>(params.tokens) * params.num_heads) return;
  const int token = static_cast<int>(query / params.num_heads);
  const int head = static_cast<int>(query % params.num_heads);

  const float* const q = params.q + query * params.head_dim;
  const std::byte* const kv_head = params.layer + head / params.group * params.head_stride;
  const int32_t* const table = params.Table(token);
  const int newest = params.positions[token];
  const int oldest = params.Oldest(newest);
  const KvRange range = SplitRange(oldest, newest, split, params.splits, kSimpleLeastBlocks);

  float top = kLowestFloat;
  float total = 0;  // of this lane's position in every block
  float sums[kSimpleRuns] = {};
  for (int b = range.begin; b < range.end; ++b) {
    const std::byte* const block = kv_head + table[b] * params.block_bytes;
    const int position = b * kKvBlockTokens + lane;
    float score = 0;
    if constexpr (kBf16) {
      const auto* const keys = reinterpret_cast<const uint32_t*>(block) + lane;
#pragma unroll 4
      for (int pair = 0; pair < (params.head_dim + 1) / 2; ++pair) {
        const uint32_t key = keys[pair * kWarp];
        const bool has_high = 2 * pair + 1 < params.head_dim;
        const uint32_t rounded = PackBf16(q[2 * pair], has_high ? q[2 * pair + 1] : 0);
        score += LowBf16(rounded) * LowBf16(key) + HighBf16(rounded) * HighBf16(key);
      }
    } else {
      const auto* const keys = reinterpret_cast<const float*>(block) + lane;
#pragma unroll 8
      for (int dim = 0; dim < params.head_dim; ++dim) score += q[dim] * keys[dim * kWarp];
    }
    // What nobody wrote may be NaN.
    score = position < oldest || position > newest ? -INFINITY : score * params.scale;

    const float new_top = fmaxf(top, rintf(WarpMax(score)));
    const float factor = Exp2(top - new_top);
    top = new_top;
    float weight = Exp2(score - top);
    if constexpr (kBf16) weight = LowBf16(PackBf16(weight, 0));
    total = total * factor + weight;
#pragma unroll
    for (int r = 0; r < kSimpleRuns; ++r) sums[r] *= factor;

    const int begin = oldest > b * kKvBlockTokens ? oldest % kKvBlockTokens : 0;
    const int last = newest - b * kKvBlockTokens;
    const int end = last < kKvBlockTokens ? last + 1 : kKvBlockTokens;
    for (int p = begin; p < end; ++p) {
      const float w = __shfl_sync(kWholeWarp, weight, p);
#pragma unroll
      for (int r = 0; r < kSimpleRuns; ++r) {
        // Runs hold whole 32 dimensions, of which the last may be nobody's.
        if (first_dim + r * kWarp >= params.head_dim) continue;
        const int64_t run = first_dim / kWarp + r;
        float value;
        if constexpr (kBf16) {
          const auto* const values = reinterpret_cast<const uint32_t*>(block + params.key_bytes);
          const uint32_t word = values[(run * (kKvBlockTokens / 2) + p / 2) * kWarp + lane];
          value = p % 2 == 0 ? LowBf16(word) : HighBf16(word);
        } else {
          const auto* const values = reinterpret_cast<const float*>(block + params.key_bytes);
          value = values[(run * kKvBlockTokens + p) * kWarp + lane];
        }
        sums[r] += w * value;
      }
    }
  }
  total = WarpSum(total);

  const int64_t part = query * params.splits + split;
  if (params.splits > 1 && first_dim == 0 && lane == 0) {
    params.stats[2 * part] = top;
    params.stats[2 * part + 1] = total;
  }
  if (range.begin == range.end) return;
  float* const to =
      params.splits > 1 ? params.sums + part * params.head_dim : params.out + query * params.head_dim;
  const float divisor = params.splits > 1 ? 1.0f : total;
#pragma unroll
  for (int r = 0; r < kSimpleRuns; ++r) {
    const int dim = first_dim + r * kWarp + lane;
    if (dim < params.head_dim) to[dim] = sums[r] / divisor;
  }
}

}  // namespace fiddler::cuda
