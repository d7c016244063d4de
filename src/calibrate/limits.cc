#include "calibrate/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <span>

namespace fiddler {
namespace {

double SecondsOf(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

LimitProbe::LimitProbe(const CpuKernels& kernels, ThreadPool& pool)
    : kernels_(kernels), pool_(pool), memory_(kReadBytes, "read probe") {
  const std::span<std::byte> bytes = memory_.bytes();
  pool_.Run([&](int worker) {
    const Range part =
        SplitRange(static_cast<int64_t>(bytes.size()), pool_.num_threads(), worker, kHugePageBytes);
    // Not zeros: the kernel may map those to one page.
    for (int64_t i = part.begin; i < part.end; ++i)
      bytes[static_cast<size_t>(i)] = static_cast<std::byte>(i & 0x3f);
  });
}

double LimitProbe::ReadGigabytesPerSecond() {
  const auto* floats = reinterpret_cast<const float*>(memory_.bytes().data());
  const auto count = static_cast<int64_t>(memory_.bytes().size() / sizeof(float));
  std::atomic<float> sink = 0;
  const double seconds = SecondsOf([&] {
    pool_.Run([&](int worker) {
      const Range part = SplitRange(count, pool_.num_threads(), worker, kHugePageBytes / sizeof(float));
      sink = kernels_.read_probe(part.end - part.begin, floats + part.begin);
    });
  });
  return static_cast<double>(memory_.bytes().size()) / seconds / 1e9;
}

double LimitProbe::Float32Gigaflops() {
  constexpr int kSamples = 5;
  constexpr int64_t kRounds = 4'000'000;  // some 20 ms
  double best = 0;                        // a limit: whatever else the machine was doing does not count
  for (int sample = 0; sample < kSamples; ++sample) {
    std::atomic<double> operations = 0;
    const double seconds =
        SecondsOf([&] { pool_.Run([&](int) { operations += kernels_.fma_probe(kRounds); }); });
    best = std::max(best, operations / seconds / 1e9);
  }
  return best;
}

}  // namespace fiddler
