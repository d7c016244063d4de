// Norms of rows.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

// A block a row: y = x / sqrt(mean(x^2) + epsilon) * weight. y may be x. Shared memory: a float for each
// warp.
inline constexpr int kRmsNormThreads = 256;
inline constexpr int kRmsNormSharedBytes = kRmsNormThreads / kWarp * static_cast<int>(sizeof(float));

__global__ void __launch_bounds__(kRmsNormThreads)
    RmsNormKernel(int64_t cols, const float* x, float* y, const float* weight, float epsilon) {
  auto* const warp_sums = reinterpret_cast<float*>(SharedMemory());
  const int64_t row = blockIdx.x;
  x += row * cols;
  y += row * cols;
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int64_t i = thread; i < cols; i += kRmsNormThreads) sum += x[i] * x[i];
  sum = WarpSum(sum);
  if (thread % kWarp == 0) warp_sums[thread / kWarp] = sum;
  __syncthreads();
  sum = 0;
  for (int warp = 0; warp < kRmsNormThreads / kWarp; ++warp) sum += warp_sums[warp];
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(cols) + epsilon);
  for (int64_t i = thread; i < cols; i += kRmsNormThreads) y[i] = x[i] * scale * weight[i];
}

}  // namespace fiddler::cuda
