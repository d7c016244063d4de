// Limits to hold kernels against: reading memory and nothing else, multiplying and nothing else.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

inline constexpr int kProbeThreads = 256;
inline constexpr int kProbeLoads = 4;  // in flight, of a thread

// Reads `count` words, each block strides of them; writes (never, but the compiler cannot know) to `unused`.
__global__ void __launch_bounds__(kProbeThreads)
    ReadProbeKernel(const uint4* data, int64_t count, uint32_t* unused) {
  uint32_t sum = 0;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kProbeThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kProbeThreads + threadIdx.x;
  int64_t i = first;
  for (; i + (kProbeLoads - 1) * threads < count; i += kProbeLoads * threads) {
    uint4 words[kProbeLoads];
    for (int load = 0; load < kProbeLoads; ++load) words[load] = LoadOnce(data + i + load * threads);
    for (const uint4& word : words) sum ^= word.x + word.y + word.z + word.w;
  }
  for (; i < count; i += threads) {
    const uint4 word = LoadOnce(data + i);
    sum ^= word.x + word.y + word.z + word.w;
  }
  if (sum == 0x5eed5eedu && count < 0) *unused = sum;
}

inline constexpr int kProbeTiles = 8;  // products of a warp that do not wait for each other

// Each warp: `rounds` times kProbeTiles products of 16 x 16 with 16 x 8, out of registers.
__global__ void __launch_bounds__(kProbeThreads) ProductProbeKernel(int64_t rounds, float* unused) {
  float sums[kProbeTiles][4] = {};
  const uint32_t word = 0x3f803f80u + threadIdx.x;
  const uint32_t a[4] = {word, word + 1, word + 2, word + 3};
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& tile : sums) MmaBf16(tile, a, word, word + 5);
  }
  float sum = 0;
  for (const auto& tile : sums) sum += tile[0] + tile[1] + tile[2] + tile[3];
  if (rounds < 0) *unused = sum;
}

inline constexpr double kProductFlops = 2.0 * 16 * 16 * 8;

}  // namespace fiddler::cuda
