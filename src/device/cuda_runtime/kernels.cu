#include "device/cuda_runtime/kernels.h"

#include "device/cuda_runtime/check.h"

namespace fiddler::cuda {
namespace {

__global__ void Post(volatile uint32_t* flag) {
  __threadfence_system();
  *flag = 1;
}

__global__ void Spin(volatile uint32_t* flag) {
  constexpr unsigned kNanoseconds = 100;  // between looks: a tenth of what a look across the link takes
  while (*flag == 0) __nanosleep(kNanoseconds);
  __threadfence_system();  // what is read from here on is what the host wrote before it set the flag
  *flag = 0;
}

__global__ void CopyWords(uint32_t* __restrict__ to, const uint32_t* __restrict__ from, uint32_t words) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < words) to[i] = from[i];
}

}  // namespace

void QueuePost(cudaStream_t stream, uint32_t* flag) {
  Post<<<1, 1, 0, stream>>>(flag);
  Check(cudaGetLastError(), "post");
}

void QueueSpin(cudaStream_t stream, uint32_t* flag) {
  Spin<<<1, 1, 0, stream>>>(flag);
  Check(cudaGetLastError(), "await");
}

void QueueCopyWords(cudaStream_t stream, uint32_t* to, const uint32_t* from, uint32_t words) {
  constexpr uint32_t kThreads = 256;
  CopyWords<<<(words + kThreads - 1) / kThreads, kThreads, 0, stream>>>(to, from, words);
  Check(cudaGetLastError(), "copy_out");
}

}  // namespace fiddler::cuda
