#include "device/cuda_runtime/mailbox.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <thread>

#include "device/cuda_runtime/check.h"
#include "device/cuda_runtime/kernels.h"

namespace fiddler::cuda {
namespace {

using Clock = std::chrono::steady_clock;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// A function of the driver, which is never linked: the plugin shall load where there is none.
template <typename Function>
Function DriverFunction(const char* name) {
  void* function = nullptr;
  constexpr unsigned kVersion =
      12000;  // of the prototypes: drivers refuse to look for what is newer than they
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &result);
  if (status != cudaSuccess) cudaGetLastError();
  if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<Function>(function);
}

// On a thread of the driver, which must not call CUDA.
void AwaitOnHost(void* flag) {
  Mailbox::Wait(static_cast<uint32_t*>(flag), std::numeric_limits<double>::infinity(), [] {});
}

void CheckDriver(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) Fail("await: %s: error %d of the driver", what, static_cast<int>(result));
}

}  // namespace

Mailbox::Mailbox() {
  struct Way {
    const char* name;
    Awaiting awaiting;
  };
  constexpr Way kWays[] = {{"memops", Awaiting::kMemoryOperations},
                           {"kernel", Awaiting::kKernel},
                           {"hostfunc", Awaiting::kHostFunction}};
  wait_value_ = DriverFunction<decltype(wait_value_)>("cuStreamWaitValue32");
  write_value_ = DriverFunction<decltype(write_value_)>("cuStreamWriteValue32");
  constexpr size_t kProbeBytes = std::size(kWays) * 2 * sizeof(uint32_t);
  void* flags = nullptr;
  Check(cudaHostAlloc(&flags, kProbeBytes, cudaHostAllocMapped | cudaHostAllocPortable), "cudaHostAlloc");
  std::fill_n(static_cast<uint32_t*>(flags), kProbeBytes / sizeof(uint32_t), 0u);

  const char* const wanted = std::getenv("FIDDLER_CUDA_AWAIT");
  std::string reasons;
  for (const Way& way : kWays) {
    if (wanted != nullptr && *wanted != '\0' && std::string_view(wanted) != way.name) continue;
    awaiting_ = way.awaiting;
    // Of its own for each way: one that hangs may still write to them.
    probe_flags_ = static_cast<uint32_t*>(flags) + 2 * (&way - kWays);
    const std::string reason = Probe();
    if (reason.empty()) {
      probe_flags_ = static_cast<uint32_t*>(flags);
      return;
    }
    reasons += std::string(reasons.empty() ? "" : "; ") + way.name + ": " + reason;
  }
  // The flags are left to a way that may hang.
  if (reasons.empty()) {
    Fail("FIDDLER_CUDA_AWAIT: expected memops, kernel or hostfunc, got '%s'", wanted);
  }
  Fail("the GPU cannot wait for the host: %s", reasons.c_str());
}

Mailbox::~Mailbox() { cudaFreeHost(probe_flags_); }

std::string Mailbox::Probe() const {
  constexpr double kSeconds = 2;
  uint32_t* const there = probe_flags_;
  uint32_t* const back = probe_flags_ + 1;
  const auto as_flag = [](uint32_t* host) {
    void* device = nullptr;
    Check(cudaHostGetDevicePointer(&device, host, 0), "cudaHostGetDevicePointer");
    return Flag{.host = host, .device = static_cast<uint32_t*>(device)};
  };
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  // A kernel that cannot run at all is no matter of how one waits.
  QueuePost(stream, as_flag(back).device);
  Check(cudaStreamSynchronize(stream), "a first kernel");
  if (!Wait(back, kSeconds, [] {})) Fail("a first kernel: what it wrote to pinned memory did not arrive");

  try {
    QueueAwait(stream, as_flag(there));
  } catch (const std::exception& error) {
    cudaStreamDestroy(stream);
    return error.what();
  }
  QueuePost(stream, as_flag(back).device);
  constexpr double kEarly = 2e-3;
  const bool early = Wait(back, kEarly, [] {});
  Set(there);
  if (early) {
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    return "does not wait";
  }
  if (!Wait(back, kSeconds, [] {})) return "does not go on";  // and keeps the stream
  Check(cudaStreamSynchronize(stream), "await");
  Check(cudaStreamDestroy(stream), "await");
  return std::atomic_ref(*there).load() == 0 ? "" : "does not set the flag back";
}

void Mailbox::Post(cudaStream_t stream, Flag flag) { QueuePost(stream, flag.device); }

void Mailbox::Await(cudaStream_t stream, Flag flag) {
  if (std::find(awaited_.begin(), awaited_.end(), flag.host) == awaited_.end()) awaited_.push_back(flag.host);
  QueueAwait(stream, flag);
}

void Mailbox::QueueAwait(cudaStream_t stream, Flag flag) const {
  switch (awaiting_) {
    case Awaiting::kMemoryOperations: {
      if (wait_value_ == nullptr || write_value_ == nullptr)
        Fail("await: the driver has no cuStreamWaitValue32");
      const auto address = reinterpret_cast<CUdeviceptr>(flag.device);
      CheckDriver(wait_value_(stream, address, 1, CU_STREAM_WAIT_VALUE_GEQ), "cuStreamWaitValue32");
      CheckDriver(write_value_(stream, address, 0, CU_STREAM_WRITE_VALUE_DEFAULT), "cuStreamWriteValue32");
      return;
    }
    case Awaiting::kKernel:
      return QueueSpin(stream, flag.device);
    case Awaiting::kHostFunction:
      return Check(cudaLaunchHostFunc(stream, AwaitOnHost, flag.host), "await");
  }
}

void Mailbox::Set(uint32_t* flag) { std::atomic_ref(*flag).store(1, std::memory_order_release); }

bool Mailbox::Wait(uint32_t* flag, double seconds, const std::function<void()>& look) {
  constexpr int kSpins = 256;  // between looks at the clock: some microseconds
  constexpr auto kBetweenLooks = std::chrono::milliseconds(5);
  const std::atomic_ref<uint32_t> value(*flag);
  const Clock::time_point start = Clock::now();
  Clock::time_point next_look = start + kBetweenLooks;
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (value.load(std::memory_order_acquire) != 0) {
        value.store(0, std::memory_order_relaxed);
        return true;
      }
      Pause();
    }
    const Clock::time_point now = Clock::now();
    if (std::chrono::duration<double>(now - start).count() > seconds) return false;
    if (now < next_look) continue;
    look();
    next_look = now + kBetweenLooks;
  }
}

void Mailbox::SetAwaited() {
  for (uint32_t* const flag : awaited_) Set(flag);
}

void Mailbox::Forget(const void* data, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  std::erase_if(awaited_,
                [&](const uint32_t* flag) { return reinterpret_cast<uintptr_t>(flag) - begin < bytes; });
}

}  // namespace fiddler::cuda
