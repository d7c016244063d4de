// Attention over the paged cache, as all of its kernels see it: what they are asked for, how the positions of
// a query are cut into parts that blocks compute side by side, and how parts become one again.
//
// Arithmetic is that of AttendArgs (kernels/ops.h): a weight is 2^(s - m), s the score times log2(e), m a
// whole number, so that parts of other m are brought together by powers of two (a GPU's exp2 gives them to
// 2 units in the last place, the host's exactly).
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

inline constexpr int kKvBlockTokens = 32;
inline constexpr float kLowestFloat = -3.402823466e38f;  // m of nothing at all

struct AttendParams {
  int tokens;
  const int32_t* positions;     // [tokens]
  const int32_t* sequences;     // [tokens]
  const int32_t* block_tables;  // [.., table_stride]
  int64_t table_stride;

  int num_heads;
  int group;  // heads of one KV head
  int head_dim;
  const float* q;  // [tokens, num_heads, head_dim]
  float* out;      // the same
  int window;      // 0: none
  float scale;     // times log2(e)

  const std::byte* layer;  // kernels/kv_view.h
  int64_t head_stride;
  int64_t block_bytes;
  int64_t key_bytes;  // of a block, before its values

  // With more than one split, what each gives for each query (a head of a token) goes to memory; it is merged
  // by AttendMergeKernel. Nothing has total 0, and its sums are not written.
  int splits;
  float* sums;   // [tokens, num_heads, splits, head_dim]: values times weights
  float* stats;  // [tokens, num_heads, splits, 2]: m, and the total of the weights

  __device__ int64_t Query(int token, int head) const {
    return static_cast<int64_t>(token) * num_heads + head;
  }
  // The first position that one at `newest` sees.
  __device__ int Oldest(int newest) const { return window > 0 && newest >= window ? newest - window + 1 : 0; }
  __device__ const int32_t* Table(int token) const {
    return block_tables + static_cast<int64_t>(sequences[token]) * table_stride;
  }
};

// A run of blocks of the cache; empty if it ends where it begins.
struct KvRange {
  int begin;
  int end;
};

// What one of `splits` does of the blocks that hold positions [oldest, newest]: like parts of at least
// `least` blocks; splits that this leaves nothing for get nothing.
__device__ __forceinline__ KvRange SplitRange(int oldest, int newest, int split, int splits, int least) {
  const int first = oldest / kKvBlockTokens;
  const int blocks = newest / kKvBlockTokens + 1 - first;
  const int most = (blocks + least - 1) / least;
  const int parts = splits < most ? splits : most;
  if (split >= parts) return {first, first};
  const auto begin_of = [&](int part) {
    return first + static_cast<int>(static_cast<int64_t>(blocks) * part / parts);
  };
  return {begin_of(split), begin_of(split + 1)};
}

// A block a query: out from what the splits gave for it. Moves 4 bytes x splits x head_dim a query, which the
// cache holds; warps take splits in turn so that loads are in flight together. Shared memory: 128 floats for
// each warp.
inline constexpr int kMergeThreads = 256;
inline constexpr int kMergeWarps = kMergeThreads / kWarp;
inline constexpr int kMergeLaneDims = 4;
inline constexpr int kMergeDims = kMergeLaneDims * kWarp;  // at a time
inline constexpr int kMergeSharedBytes = kMergeWarps * kMergeDims * static_cast<int>(sizeof(float));

__global__ void __launch_bounds__(kMergeThreads) AttendMergeKernel(AttendParams params) {
  auto* const shared = reinterpret_cast<float*>(SharedMemory());
  const int64_t query = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const float* const stats = params.stats + query * params.splits * 2;
  const float* const sums = params.sums + query * params.splits * params.head_dim;
  float base = kLowestFloat;
  for (int s = lane; s < params.splits; s += kWarp) base = fmaxf(base, stats[2 * s]);
  base = WarpMax(base);
  float total = 0;
  for (int s = lane; s < params.splits; s += kWarp) total += Exp2(stats[2 * s] - base) * stats[2 * s + 1];
  total = WarpSum(total);

  for (int first = 0; first < params.head_dim; first += kMergeDims) {
    float mine[kMergeLaneDims] = {};
    for (int s = warp; s < params.splits; s += kMergeWarps) {
      if (stats[2 * s + 1] == 0) continue;
      const float factor = Exp2(stats[2 * s] - base);
      const float* const from = sums + static_cast<int64_t>(s) * params.head_dim;
#pragma unroll
      for (int i = 0; i < kMergeLaneDims; ++i) {
        const int dim = first + i * kWarp + lane;
        if (dim < params.head_dim) mine[i] += factor * from[dim];
      }
    }
    __syncthreads();  // what the last round left there is read
#pragma unroll
    for (int i = 0; i < kMergeLaneDims; ++i) shared[warp * kMergeDims + i * kWarp + lane] = mine[i];
    __syncthreads();
    const int dim = first + thread;
    if (thread < kMergeDims && dim < params.head_dim) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kMergeWarps; ++w) sum += shared[w * kMergeDims + thread];
      params.out[query * params.head_dim + dim] = sum / total;
    }
  }
}

}  // namespace fiddler::cuda
