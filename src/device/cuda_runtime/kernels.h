// The kernels of the runtime itself: flags, and copies too small for a copy engine. Each throws
// std::runtime_error if it cannot be queued. Pointers are the device's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fiddler::cuda {

// Sets the flag, after all that the stream wrote before is seen by the host.
void QueuePost(cudaStream_t stream, uint32_t* flag);

// Keeps a thread of the GPU busy until the flag is set, and sets it back.
void QueueSpin(cudaStream_t stream, uint32_t* flag);

// words * 4 bytes, to host memory that is mapped.
void QueueCopyWords(cudaStream_t stream, uint32_t* to, const uint32_t* from, uint32_t words);

}  // namespace fiddler::cuda
