#include "calibrate/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <span>

namespace fiddler {
namespace {

// Of several tries the shortest: a limit is what the machine can do when nothing else is in the way.
double BestSecondsOf(auto&& work) {
  constexpr int kTries = 5;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
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
  const double seconds = BestSecondsOf([&] {
    pool_.Run([&](int worker) {
      const Range part = SplitRange(count, pool_.num_threads(), worker, kHugePageBytes / sizeof(float));
      sink = kernels_.read_probe(part.end - part.begin, floats + part.begin);
    });
  });
  return static_cast<double>(memory_.bytes().size()) / seconds / 1e9;
}

double LimitProbe::Float32Gigaflops() {
  constexpr int64_t kRounds = 4'000'000;  // some 20 ms
  std::atomic<double> operations = 0;
  const double seconds = BestSecondsOf([&] {
    operations = 0;
    pool_.Run([&](int) { operations += kernels_.f32_probe(kRounds); });
  });
  return operations / seconds / 1e9;
}

}  // namespace fiddler
