// Sums over a block, and what norms make of them.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

// What a norm multiplies a row by (norm.cuh), from the sum of its squares.
__device__ __forceinline__ float RmsScale(float squares, int64_t cols, float epsilon) {
  return 1.0f / sqrtf(squares / static_cast<float>(cols) + epsilon);
}

// Over a block of kThreads, to all of its threads; once in a kernel. `warp_sums`: shared memory, a float for
// each warp.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float value, float* warp_sums) {
  value = WarpSum(value);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace fiddler::cuda
