// Flags in pinned memory, by which GPU and host wait for each other. The GPU sets one by a kernel of one
// thread. How it waits for one is found out when the device opens: the first of these that works is kept.
// - memops: the stream itself waits (cuStreamWaitValue32); costs no kernel and keeps no part of the GPU busy;
// - kernel: a kernel of one thread looks again and again;
// - hostfunc: a thread of the driver looks, called by the stream: slow to start (docs/architecture.md).
// FIDDLER_CUDA_AWAIT=memops|kernel|hostfunc leaves no choice, to compare them.
//
// One thread at a time.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fiddler::cuda {

// A flag as either side sees it.
struct Flag {
  uint32_t* host = nullptr;
  uint32_t* device = nullptr;
};

class Mailbox {
 public:
  // Tries what there is. Throws std::runtime_error if nothing works: says of each why.
  Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;
  ~Mailbox();

  void Post(cudaStream_t stream, Flag flag);
  void Await(cudaStream_t stream, Flag flag);
  static void Set(uint32_t* flag);
  // Spins until the flag is set and sets it back; false: it was not, for so many seconds. Calls `look` every
  // few milliseconds, which may throw.
  static bool Wait(uint32_t* flag, double seconds, const std::function<void()>& look);

  // Sets whatever was ever awaited, so that nothing waits for ever.
  void SetAwaited();
  // The memory goes: flags in it are not awaited any more.
  void Forget(const void* data, uint64_t bytes);

 private:
  enum class Awaiting { kMemoryOperations, kKernel, kHostFunction };

  void QueueAwait(cudaStream_t stream, Flag flag) const;
  // Hands over once, there and back. Empty: it works; otherwise why not.
  std::string Probe() const;

  Awaiting awaiting_ = Awaiting::kMemoryOperations;
  decltype(&cuStreamWaitValue32) wait_value_ = nullptr;
  decltype(&cuStreamWriteValue32) write_value_ = nullptr;
  uint32_t* probe_flags_ = nullptr;  // pinned
  std::vector<uint32_t*> awaited_;   // host addresses, each once: a handful
};

}  // namespace fiddler::cuda
