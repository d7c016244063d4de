// What CUDA sources see of CUDA, so that the same sources are compiled by nvcc for a GPU and by the host's
// compiler for the emulation (emulation/machine.h), which plays one in tests.
//
// Common to both: threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp, shuffles over whole
// warps (mask kWholeWarp), float4, uint4, int4, float2, uint2, dim3, cudaStream_t, the float functions of
// <cmath>, rsqrtf, FIDDLER_UNROLL; and what intrinsics.cuh adds. All shared memory is dynamic: SharedMemory()
// of intrinsics.cuh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define FIDDLER_UNROLL _Pragma("unroll")  // before a loop
#else
#include "kernels/cuda/emulation/machine.h"
#define FIDDLER_UNROLL
#endif

namespace fiddler::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

// Queues a kernel. Throws std::runtime_error if it cannot be; `what` opens the message.
template <typename... Params, typename... Args>
void Launch(const char* what, const LaunchShape& shape, cudaStream_t stream, void (*kernel)(Params...),
            Args... args) {
#ifdef __CUDACC__
  constexpr size_t kSharedWithoutAsking = 48 << 10;
  if (shape.shared_bytes > kSharedWithoutAsking) {
    const cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(shape.shared_bytes));
    if (status != cudaSuccess)
      throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
  kernel<<<shape.grid, shape.block, shape.shared_bytes, stream>>>(static_cast<Params>(args)...);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
#else
  stream->Run(what, shape.grid, shape.block, shape.shared_bytes,
              [&] { kernel(static_cast<Params>(args)...); });
#endif
}

}  // namespace fiddler::cuda
