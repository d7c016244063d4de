// Between the projections and attention: norms, clamp and RoPE of queries and keys; keys and values into the
// paged cache (kernels/kv_view.h).
#pragma once

#include "kernels/cuda/block_sum.cuh"
#include "kernels/kv_view.h"

namespace fiddler::cuda {

inline constexpr int kRotateWarps = 4;  // of a block
inline constexpr int kRotateThreads = kRotateWarps * kWarp;
inline constexpr int kRotateBlocks = 5;  // on a multiprocessor, at least: 96 registers
inline constexpr int kRotateSharedBytes = kRotateWarps * static_cast<int>(sizeof(float));

// A lane holds this many pairs of a head's numbers.
inline constexpr int kRotatePairs = 4;
inline constexpr int64_t kMostRotatedDims = 2 * kRotatePairs * kWarp;

// One of q, k, v.
struct RotatedHeads {
  float* x = nullptr;  // [tokens, heads, head_dim], changed in place
  int heads = 0;
  const float* norm = nullptr;   // weights, or null
  bool norm_over_heads = false;  // one norm, [heads * head_dim] weights; else one a head, [head_dim] weights
};

struct RotateStoreParams {
  const int32_t* positions;     // [tokens]
  const int32_t* sequences;     // [tokens]
  const int32_t* block_tables;  // [.., table_stride]
  int64_t table_stride;
  RotatedHeads q;
  RotatedHeads k;
  RotatedHeads v;
  int heads_per_block;  // all, where a norm goes over all
  int head_dim;
  int half;  // of the leading dimensions that turn
  float epsilon;
  float clamp;          // 0: not
  const float* cosine;  // [positions, half]
  const float* sine;    // [positions, half]
  std::byte* layer;     // of the cache
  int64_t head_stride;  // bytes
  int64_t block_bytes;
  int64_t key_bytes;  // of a block
};

inline constexpr int kBlockTokens = static_cast<int>(KvLayout::kBlockTokens);

// Writes numbers of one position of one block of the cache.
template <bool kBf16>
struct KvPlace {
  static constexpr int kPack = kBf16 ? 2 : 1;  // numbers of a cell
  static constexpr int kValueDims = static_cast<int>(KvLayout::kValueDims);

  std::byte* keys;
  std::byte* values;
  int token;  // of the block

  __device__ void StoreKey(int dim, float value) const {
    Store(keys, (dim / kPack * kBlockTokens + token) * kPack + dim % kPack, value);
  }
  __device__ void StoreValue(int dim, float value) const {
    const int row = dim / kValueDims * (kBlockTokens / kPack) + token / kPack;
    Store(values, (row * kValueDims + dim % kValueDims) * kPack + token % kPack, value);
  }

 private:
  __device__ static void Store(std::byte* to, int index, float value) {
    if constexpr (kBf16) {
      reinterpret_cast<uint16_t*>(to)[index] = static_cast<uint16_t>(PackBf16(value, 0) & 0xffffu);
    } else {
      reinterpret_cast<float*>(to)[index] = value;
    }
  }
};

// A NaN stays one.
__device__ __forceinline__ float Clamped(float x, float limit) {
  if (limit == 0) return x;
  return x < -limit ? -limit : x > limit ? limit : x;
}

// blockIdx.x is the token; blockIdx.y counts groups of heads_per_block heads of q, then of k, then of v. A
// warp a head, which it reads once (twice below a norm over heads), holds in registers and writes back.
//
// Bytes: 8 a number of q, and 8 + 2 a number of k in a cache of BF16, 4 + 2 of v. Keys of one token are
// scattered over the cache, a cell in each 128 bytes; neighbouring tokens of a prompt fill them in the L2
// cache. One token: the way to memory and back three times (position, block, head).
template <bool kBf16>
__global__ void __launch_bounds__(kRotateThreads, kRotateBlocks) RotateStoreKernel(RotateStoreParams params) {
  const int64_t token = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int per_block = params.heads_per_block;
  const int q_groups = (params.q.heads + per_block - 1) / per_block;
  const int kv_groups = (params.k.heads + per_block - 1) / per_block;
  const int y = static_cast<int>(blockIdx.y);
  const bool is_q = y < q_groups;
  const bool is_k = !is_q && y < q_groups + kv_groups;
  const RotatedHeads part = is_q ? params.q : is_k ? params.k : params.v;
  const int first_head = (is_q ? y : is_k ? y - q_groups : y - q_groups - kv_groups) * per_block;
  const int last_head = first_head + per_block < part.heads ? first_head + per_block : part.heads;
  const int position = params.positions[token];
  const int head_dim = params.head_dim;
  const int half = is_q || is_k ? params.half : 0;
  const bool changes = is_q || is_k || params.clamp != 0;  // else v stays as it is
  const float* const cosines = params.cosine + int64_t{position} * half;
  const float* const sines = params.sine + int64_t{position} * half;

  float* const row = part.x + token * part.heads * head_dim;
  float row_scale = 1;
  if (part.norm_over_heads) {
    const int cols = part.heads * head_dim;
    float squares = 0;
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += kRotateThreads) squares += row[i] * row[i];
    squares = BlockSum<kRotateThreads>(squares, reinterpret_cast<float*>(SharedMemory()));
    row_scale = RmsScale(squares, cols, params.epsilon);
  }

  // Pair i: numbers i and i + half, where they turn; below, numbers of the rest and of its second half, in
  // which, if head_dim is odd, the last has none.
  const int rest = (head_dim - 2 * half + 1) / 2;
  const int pairs = half + rest;
  for (int head = first_head + warp; head < last_head; head += kRotateWarps) {
    float* const x = row + head * head_dim;
    float low[kRotatePairs];
    float high[kRotatePairs];
    for (int n = 0; n < kRotatePairs; ++n) {
      const int pair = lane + n * kWarp;
      const int i = pair < half ? pair : pair + half;
      const int j = pair < half ? pair + half : i + rest;
      low[n] = pair < pairs ? x[i] : 0;
      high[n] = pair < pairs && j < head_dim ? x[j] : 0;
    }
    const float* weight = part.norm;
    float scale = row_scale;
    if (part.norm_over_heads) {
      weight += head * head_dim;
    } else if (weight != nullptr) {
      float squares = 0;
      for (int n = 0; n < kRotatePairs; ++n) squares += low[n] * low[n] + high[n] * high[n];
      scale = RmsScale(WarpSum(squares), head_dim, params.epsilon);
    }

    KvPlace<kBf16> place = {};
    if (!is_q) {
      const int64_t block =
          params.block_tables[params.sequences[token] * params.table_stride + position / kBlockTokens];
      place.keys = params.layer + head * params.head_stride + block * params.block_bytes;
      place.values = place.keys + params.key_bytes;
      place.token = position % kBlockTokens;
      if (kBf16 && is_k && head_dim % 2 != 0 && lane == 0) place.StoreKey(head_dim, 0);
    }
    for (int n = 0; n < kRotatePairs; ++n) {
      const int pair = lane + n * kWarp;
      if (pair >= pairs) break;
      const int i = pair < half ? pair : pair + half;
      const int j = pair < half ? pair + half : i + rest;
      const bool has_high = j < head_dim;
      float a = low[n];
      float b = high[n];
      if (weight != nullptr) {
        a = a * scale * weight[i];
        if (has_high) b = b * scale * weight[j];
      }
      a = Clamped(a, params.clamp);
      b = Clamped(b, params.clamp);
      if (pair < half) {
        const float cosine = cosines[pair];
        const float sine = sines[pair];
        const float turned = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = turned;
      }
      if (changes) {
        x[i] = a;
        if (has_high) x[j] = b;
      }
      if (is_q) continue;
      if (is_k) {
        place.StoreKey(i, a);
        if (has_high) place.StoreKey(j, b);
      } else {
        place.StoreValue(i, a);
        if (has_high) place.StoreValue(j, b);
      }
    }
  }
}

}  // namespace fiddler::cuda
