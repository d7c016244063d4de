// Sums that several thread blocks did parts of.
#pragma once

#include "kernels/cuda/product_args.cuh"

namespace fiddler::cuda {

inline constexpr int kSumThreads = 256;

// y [tokens, rows] = the sum over splits of parts [splits, count], count being tokens * rows, in their order,
// + bias.
__global__ void __launch_bounds__(kSumThreads)
    SumSplitsKernel(int64_t count, int rows, int splits, const float* parts, const float* bias, float* y) {
  const int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (i >= count) return;
  float total = 0;
  for (int split = 0; split < splits; ++split) total += parts[split * count + i];
  y[i] = bias != nullptr ? total + bias[i % rows] : total;
}

}  // namespace fiddler::cuda
