// Operations on arrays, number by number.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

inline constexpr int kElementwiseThreads = 256;

// y += x, 4 numbers a thread: 12 bytes moved a number, the limit. Blocks enough to fill a GPU have more loads
// on their way than it needs. `vectors`: x and y lie on 16 bytes.
inline constexpr int kAddPerBlock = 4 * kElementwiseThreads;

__global__ void __launch_bounds__(kElementwiseThreads)
    AddKernel(int64_t count, const float* x, float* y, bool vectors) {
  const int64_t begin = (int64_t{blockIdx.x} * kElementwiseThreads + threadIdx.x) * 4;
  if (vectors && begin + 4 <= count) {
    const float4 a = *reinterpret_cast<const float4*>(x + begin);
    auto* const to = reinterpret_cast<float4*>(y + begin);
    const float4 b = *to;
    *to = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    return;
  }
  for (int64_t i = begin; i < count && i < begin + 4; ++i) y[i] += x[i];
}

// x = 1 / (1 + exp(-x)): a number for each token, so that the launch is all there is to pay.
__global__ void __launch_bounds__(kElementwiseThreads) SigmoidKernel(int64_t count, float* x) {
  const int64_t i = int64_t{blockIdx.x} * kElementwiseThreads + threadIdx.x;
  if (i < count) x[i] = 1.0f / (1.0f + expf(-x[i]));
}

}  // namespace fiddler::cuda
