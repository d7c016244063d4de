// The CUDA runtime as far as the plugin's own runtime (src/device/cuda_runtime) uses it, played by threads of
// the host: every stream is a thread, device memory is host memory. So what the plugin does around its
// kernels is tested without a GPU. What a GPU does that this does not (timing, caches, the driver's moods) is
// not.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <functional>

namespace fiddler::fake {

// How stream memory operations behave.
enum class MemoryOperations { kWork, kAbsent, kRefused, kHang };

struct Settings {
  cudaError_t count_status = cudaSuccess;  // of cudaGetDeviceCount
  int count = 1;
  int driver_version = 13020;
  size_t free_bytes = size_t{1} << 30;
  size_t installed_bytes = size_t{2} << 30;
  MemoryOperations memory_operations = MemoryOperations::kWork;
  bool read_only_registers_alone = false;  // cudaHostRegister takes nothing without cudaHostRegisterReadOnly
};

// Begins anew. The objects of before are gone already.
void Reset(const Settings& settings);

// From now on every call that reaches the GPU fails with this.
void Break(cudaError_t error);

struct Counts {
  std::atomic<int> allocations, host_allocations, registrations, streams, events, graphs;  // that are there
  std::atomic<int> memory_waits, spins, host_functions, small_copies;                      // queued so far
  int Left() const { return allocations + host_allocations + registrations + streams + events + graphs; }
};
Counts& counts();

// As a kernel would.
void Queue(cudaStream_t stream, std::function<void()> work);

}  // namespace fiddler::fake
