// Times work on cold weights on one thread, each piece beside the limits of the machine, measured in turn
// with it, so that what else runs on the machine hits both. Times are CPU time.
#pragma once

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstdlib>
#include <span>

#include "kernels/ops.h"
#include "kernels/probe.h"

namespace fiddler::bench {

// Memory far larger than the caches, on huge pages, taken part by part, each cold again when its turn comes.
class ColdPool {
 public:
  static constexpr int64_t kBytes = int64_t{512} << 20;

  ColdPool()
      : memory_(static_cast<std::byte*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    if (memory_ == MAP_FAILED) std::abort();
    madvise(memory_, kBytes, MADV_HUGEPAGE);
  }
  ColdPool(const ColdPool&) = delete;
  ColdPool& operator=(const ColdPool&) = delete;
  ~ColdPool() { munmap(memory_, kBytes); }

  std::span<std::byte> bytes() { return {memory_, kBytes}; }

  // The next `bytes` of it, a multiple of 64.
  const std::byte* Take(int64_t bytes) {
    if (next_ + bytes > kBytes) next_ = 0;
    const std::byte* const part = memory_ + next_;
    next_ += bytes;
    return part;
  }

 private:
  std::byte* memory_;
  int64_t next_ = 0;
};

// Reports `work(data)`, which reads `bytes` of data and does `operations` of the kind `probe` does. Counters:
// GB/s, and %read of a plain read of as many bytes; GOP/s, two a product, and %arith of the probe.
template <class Work>
void Measure(benchmark::State& state, const CpuKernels& kernels, double (*probe)(int64_t rounds),
             ColdPool& pool, int64_t bytes, double operations, const Work& work) {
  double seconds = 0;
  double read_seconds = 0;
  double probe_rate = 0;
  for (auto _ : state) {
    const auto* floats = reinterpret_cast<const float*>(pool.Take(bytes));
    read_seconds += static_cast<double>(bytes) /
                    MeasureReadRate(kernels, {floats, static_cast<size_t>(bytes) / sizeof(float)});
    const std::byte* const data = pool.Take(bytes);
    const double begin = ThreadSeconds();
    work(data);
    const double elapsed = ThreadSeconds() - begin;
    seconds += elapsed;
    state.SetIterationTime(elapsed);
    probe_rate += MeasureRate(probe);
  }
  const auto rounds = static_cast<double>(state.iterations());
  const double rate = operations * rounds / seconds;
  state.counters["GB/s"] = static_cast<double>(bytes) * rounds / seconds * 1e-9;
  state.counters["%read"] = 100 * read_seconds / seconds;
  state.counters["GOP/s"] = rate * 1e-9;
  state.counters["%arith"] = 100 * rate / (probe_rate / rounds);
}

}  // namespace fiddler::bench
