// Results of the CUDA runtime, and whether the GPU can still be used at all.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>

#include "device/cuda_runtime/failure.h"

namespace fiddler::cuda {

// Throws std::runtime_error("CALL: what the runtime says"). It may be the fault of something queued before.
inline void Check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call shall not find it
  Fail("%s: %s (%s)", call, cudaGetErrorString(status), cudaGetErrorName(status));
}

// Some errors are the end of a CUDA context, for example an access to memory that is not there: whatever is
// called afterwards returns them again. The first text is kept, as the one that says most.
//
// Any number of threads.
class Health {
 public:
  Health() { Check(cudaStreamCreateWithFlags(&idle_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  Health(const Health&) = delete;
  Health& operator=(const Health&) = delete;
  ~Health() { cudaStreamDestroy(idle_); }

  // Throws the first text if the device is dead.
  void ThrowIfDead() const {
    if (!dead_.load(std::memory_order_acquire)) return;
    const std::scoped_lock lock(mutex_);
    throw std::runtime_error(first_);
  }

  // After a failure, with its text: was it the end?
  void Examine(const std::string& text) {
    cudaGetLastError();
    if (AsksWell()) return;
    Bury(text);
  }

  // Throws if something that was queued has failed meanwhile.
  void ThrowIfFailed(const char* call) {
    if (AsksWell()) return;
    const std::string text = std::string(call) + ": " + cudaGetErrorString(cudaStreamQuery(idle_));
    Bury(text);
    ThrowIfDead();
  }

  // Nothing is of use any more, for this reason, if there was none before.
  void Bury(const std::string& text) {
    const std::scoped_lock lock(mutex_);
    if (first_.empty()) first_ = text;
    dead_.store(true, std::memory_order_release);
  }

 private:
  // A stream on which nothing ever runs has nothing to report but the state of the context.
  bool AsksWell() const {
    const cudaError_t status = cudaStreamQuery(idle_);
    return status == cudaSuccess || status == cudaErrorNotReady;
  }

  cudaStream_t idle_ = nullptr;
  std::atomic<bool> dead_ = false;
  mutable std::mutex mutex_;  // guards what follows
  std::string first_;
};

}  // namespace fiddler::cuda
