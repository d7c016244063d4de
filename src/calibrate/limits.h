// What this machine can do at most, measured with all threads of a pool at once: what results are held
// against.
#pragma once

#include "base/memory.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"

namespace fiddler {

class LimitProbe {
 public:
  // Bytes read by one measurement: far above the caches, a few tens of milliseconds.
  static constexpr size_t kReadBytes = size_t{1} << 30;

  // Both must outlive this object. Allocates and fills kReadBytes; throws Error if memory is short.
  LimitProbe(const CpuKernels& kernels, ThreadPool& pool);

  // Gigabytes a second of reading memory in order, on huge pages. On a busy or shared machine it changes from
  // second to second: measure beside what is compared with it.
  double ReadGigabytesPerSecond();

  // 10^9 float32 operations a second (an FMA is two), registers only.
  double Float32Gigaflops();

 private:
  const CpuKernels& kernels_;
  ThreadPool& pool_;
  HugePageBuffer memory_;
};

}  // namespace fiddler
