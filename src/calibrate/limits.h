// What this machine can do at most, measured with all threads of a pool at once: what results are held
// against.
#pragma once

#include <cstddef>
#include <span>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/packed_matrix.h"

namespace fiddler {

struct Limits {
  double read_gbps;    // 10^9 bytes a second, read from memory, on huge pages
  double f32_gflops;   // 10^9 float32 operations a second, registers only; an FMA is two
  double bf16_gflops;  // of products of BF16, summed in float32
  double int8_gops;    // of products of int8, summed in int32
};

// Reading: wall time of all threads together, since they share the memory. Arithmetic: the sum over the
// threads of what each does in a second of its own CPU time, so that what else runs on the machine hardly
// lowers it. The best of a few tries.
class LimitProbe {
 public:
  // Both must outlive this object. Allocates and fills 256 MiB for each thread, at least 1 GiB: far above the
  // caches. Throws Error if memory is short.
  LimitProbe(const CpuKernels& kernels, ThreadPool& pool);
  // Reads memory that is there already: larger than the caches by far, every page of it written. It must
  // outlive this object too.
  LimitProbe(const CpuKernels& kernels, ThreadPool& pool, std::span<const std::byte> memory);

  double ReadGigabytesPerSecond();  // some 30 ms
  double Float32Gigaflops();        // these some 15 ms
  double BF16Gigaflops();
  double Int8Gigaops();
  Limits MeasureAll();

  // The limit of products with weights of this format and x rounded like that, whatever the unit is called.
  double ArithmeticGigaops(WeightFormat format, Rounding rounding);

 private:
  double ArithmeticRate(double (*probe)(int64_t rounds));
  template <class Rate>
  double BestSum(const Rate& rate);

  const CpuKernels& kernels_;
  ThreadPool& pool_;
  HugePageBuffer own_memory_;
  std::span<const std::byte> memory_;
};

}  // namespace fiddler
