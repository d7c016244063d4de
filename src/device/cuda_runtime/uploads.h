// Small arrays of the host on their way to operations: pinned memory they are copied to at once, and device
// memory where kernels read them, both a ring (device/cuda_runtime/upload_ring.h).
//
// One thread at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "device/cuda_runtime/upload_ring.h"

namespace fiddler::cuda {

class Uploads {
 public:
  // Throws std::runtime_error if the memory is not there.
  explicit Uploads(size_t bytes);
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;
  ~Uploads();  // the streams have drained

  // The address on the device of the bytes, for what is queued on the stream from now on. Waits where the
  // ring is full of what operations before have not read. Throws std::runtime_error if they are more than
  // fit.
  const void* ToDevice(const void* data, size_t bytes, cudaStream_t stream);
  // The operation that asked for them is queued.
  void Mark(cudaStream_t stream);

 private:
  bool RetireOldest();  // false: there is none

  UploadRing ring_;
  std::byte* pinned_ = nullptr;
  std::byte* device_ = nullptr;
  std::vector<cudaEvent_t> events_;  // of the marks
};

}  // namespace fiddler::cuda
