#include "fake_cudart.h"

#include <cuda.h>

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "device/cuda_runtime/kernels.h"

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

struct CUevent_st {
  std::atomic<uint64_t> recorded = 0;
  std::atomic<uint64_t> done = 0;
};

struct CUstream_st {
  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::deque<Work> queue;
  bool stopping = false;
  bool capturing = false;
  std::vector<Work> captured;
  std::thread thread{[this] { Run(); }};

  void Run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      const Work work = queue.front();
      lock.unlock();
      work();
      lock.lock();
      queue.pop_front();
      changed.notify_all();
    }
  }
};

namespace fiddler::fake {
namespace {

struct State {
  Settings settings;
  Counts counts;
  std::atomic<cudaError_t> broken = cudaSuccess;
  std::mutex mutex;                  // guards what follows
  std::map<uintptr_t, size_t> host;  // what cudaHostAlloc gave and what is registered
};

State& state() {
  static State state;
  return state;
}

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t Return(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t Broken() { return Return(state().broken); }

void SpinUntil(const std::function<bool()>& done) {
  while (!done() && state().broken == cudaSuccess) std::this_thread::yield();
}

uint32_t Load(uint32_t* flag) { return std::atomic_ref(*flag).load(); }

bool Touches(uintptr_t begin, size_t bytes, std::pair<const uintptr_t, size_t> range) {
  return begin < range.first + range.second && range.first < begin + bytes;
}

// A copy may touch one piece of registered memory at most, and then lies in it.
bool IsInOnePiece(const void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const std::scoped_lock lock(state().mutex);
  for (const auto& range : state().host) {
    if (!Touches(begin, bytes, range)) continue;
    return begin >= range.first && begin + bytes <= range.first + range.second;
  }
  return true;
}

cudaError_t Add(void* data, size_t bytes) {
  const std::scoped_lock lock(state().mutex);
  for (const auto& range : state().host) {
    if (Touches(reinterpret_cast<uintptr_t>(data), bytes, range)) return cudaErrorHostMemoryAlreadyRegistered;
  }
  state().host.emplace(reinterpret_cast<uintptr_t>(data), bytes);
  return cudaSuccess;
}

bool Remove(void* data) {
  const std::scoped_lock lock(state().mutex);
  return state().host.erase(reinterpret_cast<uintptr_t>(data)) == 1;
}

CUresult WaitValue(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned) {
  if (state().settings.memory_operations == MemoryOperations::kRefused) return CUDA_ERROR_NOT_SUPPORTED;
  ++state().counts.memory_waits;
  auto* const flag = reinterpret_cast<uint32_t*>(address);
  const bool hangs = state().settings.memory_operations == MemoryOperations::kHang;
  Queue(stream, [=] { SpinUntil([=] { return !hangs && Load(flag) >= value; }); });
  return CUDA_SUCCESS;
}

CUresult WriteValue(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned) {
  auto* const flag = reinterpret_cast<uint32_t*>(address);
  Queue(stream, [=] { std::atomic_ref(*flag).store(value); });
  return CUDA_SUCCESS;
}

}  // namespace

void Reset(const Settings& settings) {
  state().settings = settings;
  state().broken = cudaSuccess;
  Counts& all = state().counts;
  for (std::atomic<int>* count :
       {&all.allocations, &all.host_allocations, &all.registrations, &all.streams, &all.events, &all.graphs,
        &all.memory_waits, &all.spins, &all.host_functions, &all.small_copies}) {
    *count = 0;
  }
  const std::scoped_lock lock(state().mutex);
  state().host.clear();
}

void Break(cudaError_t error) { state().broken = error; }
Counts& counts() { return state().counts; }

void Queue(cudaStream_t stream, Work work) {
  const std::scoped_lock lock(stream->mutex);
  if (stream->capturing) return stream->captured.push_back(std::move(work));
  stream->queue.push_back(std::move(work));
  stream->changed.notify_all();
}

}  // namespace fiddler::fake

// The kernels of the runtime, in place of kernels.cu.
namespace fiddler::cuda {

void QueuePost(cudaStream_t stream, uint32_t* flag) {
  fake::Queue(stream, [=] { std::atomic_ref(*flag).store(1); });
}

void QueueSpin(cudaStream_t stream, uint32_t* flag) {
  ++fake::counts().spins;
  fake::Queue(stream, [=] {
    fake::SpinUntil([=] { return fake::Load(flag) != 0; });
    std::atomic_ref(*flag).store(0);
  });
}

void QueueCopyWords(cudaStream_t stream, uint32_t* to, const uint32_t* from, uint32_t words) {
  ++fake::counts().small_copies;
  fake::Queue(stream, [=] { std::memcpy(to, from, words * sizeof(uint32_t)); });
}

}  // namespace fiddler::cuda

using namespace fiddler::fake;  // NOLINT(google-build-using-namespace): what follows is in none

extern "C" {

// Of what nvcc adds to every file; there are no kernels in them here.
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheTest"; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "another error";
}
cudaError_t cudaGetDeviceCount(int* count) {
  if (state().settings.count_status == cudaSuccess) *count = state().settings.count;
  return Return(state().settings.count_status);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().settings.driver_version;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return Broken(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "Threads");
  properties->multiProcessorCount = 7;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = state().settings.free_bytes;
  *total = state().settings.installed_bytes;
  return Broken();
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  ++state().counts.allocations;
  return Broken();
}
cudaError_t cudaFree(void* data) {
  if (data != nullptr) --state().counts.allocations;
  std::free(data);
  return Broken();
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  *data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  ++state().counts.host_allocations;
  return Return(Add(*data, bytes));
}
cudaError_t cudaFreeHost(void* data) {
  if (!Remove(data)) return Return(cudaErrorInvalidValue);
  --state().counts.host_allocations;
  std::free(data);
  return Broken();
}
cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned flags) {
  if (state().settings.read_only_registers_alone && (flags & cudaHostRegisterReadOnly) == 0) {
    return Return(cudaErrorInvalidValue);
  }
  const cudaError_t error = Add(data, bytes);
  if (error == cudaSuccess) ++state().counts.registrations;
  return Return(error);
}
cudaError_t cudaHostUnregister(void* data) {
  if (!Remove(data)) return Return(cudaErrorHostMemoryNotRegistered);
  --state().counts.registrations;
  return Broken();
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return Broken();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  ++state().counts.streams;
  return Broken();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    const std::scoped_lock lock(stream->mutex);
    stream->stopping = true;
    stream->changed.notify_all();
  }
  stream->thread.join();
  delete stream;
  --state().counts.streams;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (state().broken != cudaSuccess) return Broken();
  const std::scoped_lock lock(stream->mutex);
  if (stream->capturing) return Return(cudaErrorStreamCaptureUnsupported);
  return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::unique_lock lock(stream->mutex);
  stream->changed.wait(lock, [&] { return stream->queue.empty(); });
  return Broken();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  ++state().counts.events;
  return Broken();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --state().counts.events;
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (flags == cudaEventRecordExternal) {  // recorded when it is launched: there, in order, also done
    Queue(stream, [=] { event->done = ++event->recorded; });
    return Broken();
  }
  const uint64_t ticket = ++event->recorded;
  Queue(stream, [=] { event->done = ticket; });
  return Broken();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  SpinUntil([=] { return event->done >= event->recorded; });
  return Broken();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const uint64_t ticket = event->recorded;
  Queue(stream, [=] { SpinUntil([=] { return event->done >= ticket; }); });
  return Broken();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (!IsInOnePiece(kind == cudaMemcpyHostToDevice ? from : to, bytes)) return Return(cudaErrorInvalidValue);
  Queue(stream, [=] { std::memcpy(to, from, bytes); });
  return Broken();
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Queue(stream, [=] { std::memset(to, value, bytes); });
  return Broken();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  ++state().counts.host_functions;
  Queue(stream, [=] { function(data); });
  return Broken();
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *result = cudaDriverEntryPointSymbolNotFound;
  if (state().settings.memory_operations == MemoryOperations::kAbsent) return cudaSuccess;
  const bool waits = std::string_view(name) == "cuStreamWaitValue32";
  *function = waits ? reinterpret_cast<void*>(WaitValue) : reinterpret_cast<void*>(WriteValue);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::scoped_lock lock(stream->mutex);
  stream->capturing = true;
  return Broken();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::scoped_lock lock(stream->mutex);
  stream->capturing = false;
  *graph = new CUgraph_st{.work = std::exchange(stream->captured, {})};
  ++state().counts.graphs;
  return Broken();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  --state().counts.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{.work = graph->work};
  ++state().counts.graphs;
  return Broken();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  --state().counts.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return Broken(); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const Work& work : exec->work) Queue(stream, work);
  return Broken();
}

}  // extern "C"
