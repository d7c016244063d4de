// Norms of rows: y = x / sqrt(mean(x^2) + epsilon) * weight.
#pragma once

#include "kernels/cuda/block_sum.cuh"

namespace fiddler::cuda {

// A block a row. y may be x. x and weight are read once and y written once, 12 bytes a column of which the
// weights, for all rows but the first, come from a cache: bandwidth is the limit for many rows, for one the
// way to memory and back, which is why everything is asked for before anything is waited for.
inline constexpr int kRmsNormThreads = 256;
inline constexpr int kRmsNormSharedBytes = kRmsNormThreads / kWarp * static_cast<int>(sizeof(float));

// Rows of up to this many columns stay in registers, kVectors float4 a thread.
template <int kVectors>
inline constexpr int64_t kRmsNormMostCols = kVectors * 4 * kRmsNormThreads;

// x, y and weight on 16 bytes, cols a multiple of 4.
template <int kVectors>
__global__ void __launch_bounds__(kRmsNormThreads)
    RmsNormKernel(int64_t cols, const float* x, float* y, const float* weight, float epsilon) {
  const auto* const from = reinterpret_cast<const float4*>(x + blockIdx.x * cols);
  auto* const to = reinterpret_cast<float4*>(y + blockIdx.x * cols);
  const auto* const factors = reinterpret_cast<const float4*>(weight);
  const int vectors = static_cast<int>(cols / 4);
  float4 values[kVectors];
  float4 scales[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int i = static_cast<int>(threadIdx.x) + v * kRmsNormThreads;
    values[v] = i < vectors ? from[i] : make_float4(0, 0, 0, 0);
    scales[v] = i < vectors ? factors[i] : make_float4(0, 0, 0, 0);
  }
  float squares = 0;
  for (int v = 0; v < kVectors; ++v) {
    squares += values[v].x * values[v].x + values[v].y * values[v].y + values[v].z * values[v].z +
               values[v].w * values[v].w;
  }
  squares = BlockSum<kRmsNormThreads>(squares, reinterpret_cast<float*>(SharedMemory()));
  const float scale = RmsScale(squares, cols, epsilon);
  for (int v = 0; v < kVectors; ++v) {
    const int i = static_cast<int>(threadIdx.x) + v * kRmsNormThreads;
    if (i >= vectors) break;
    to[i] = make_float4(values[v].x * scale * scales[v].x, values[v].y * scale * scales[v].y,
                        values[v].z * scale * scales[v].z, values[v].w * scale * scales[v].w);
  }
}

// Any rows at all: x is read twice, the second time from a cache.
__global__ void __launch_bounds__(kRmsNormThreads)
    RmsNormAnyKernel(int64_t cols, const float* x, float* y, const float* weight, float epsilon) {
  x += blockIdx.x * cols;
  y += blockIdx.x * cols;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < cols; i += kRmsNormThreads) squares += x[i] * x[i];
  squares = BlockSum<kRmsNormThreads>(squares, reinterpret_cast<float*>(SharedMemory()));
  const float scale = RmsScale(squares, cols, epsilon);
  for (int64_t i = threadIdx.x; i < cols; i += kRmsNormThreads) y[i] = x[i] * scale * weight[i];
}

}  // namespace fiddler::cuda
