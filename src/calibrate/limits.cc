#include "calibrate/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/probe.h"

namespace fiddler {
namespace {

constexpr int kTries = 3;

size_t ReadBytes(int threads) {
  return std::max(size_t{1} << 30, (size_t{256} << 20) * static_cast<size_t>(threads));
}

}  // namespace

LimitProbe::LimitProbe(const CpuKernels& kernels, ThreadPool& pool)
    : kernels_(kernels),
      pool_(pool),
      own_memory_(ReadBytes(pool.num_threads()), "read probe"),
      memory_(own_memory_.bytes()) {
  const std::span<std::byte> bytes = own_memory_.bytes();
  pool_.Run([&](int worker) {
    const Range part =
        SplitRange(static_cast<int64_t>(bytes.size()), pool_.num_threads(), worker, kHugePageBytes);
    // Not zeros: the kernel may map those to one page.
    std::memset(bytes.data() + part.begin, 0x3f, static_cast<size_t>(part.end - part.begin));
  });
}

LimitProbe::LimitProbe(const CpuKernels& kernels, ThreadPool& pool, std::span<const std::byte> memory)
    : kernels_(kernels), pool_(pool), memory_(memory) {}

// Calls rate(worker), operations a second, on all threads at once.
template <class Rate>
double LimitProbe::BestSum(const Rate& rate) {
  std::vector<double> rates(static_cast<size_t>(pool_.num_threads()));
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    pool_.Run([&](int worker) { rates[static_cast<size_t>(worker)] = rate(worker); });
    best = std::max(best, std::accumulate(rates.begin(), rates.end(), 0.0));
  }
  return best / 1e9;
}

double LimitProbe::ReadGigabytesPerSecond() {
  const std::span<const float> floats(reinterpret_cast<const float*>(memory_.data()),
                                      memory_.size() / sizeof(float));
  std::atomic<float> sink = 0;
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pool_.Run([&](int worker) {
      const Range part = SplitRange(static_cast<int64_t>(floats.size()), pool_.num_threads(), worker,
                                    kHugePageBytes / sizeof(float));
      sink = kernels_.read_probe(part.end - part.begin, floats.data() + part.begin);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(floats.size_bytes()) / seconds.count());
  }
  return best / 1e9;
}

double LimitProbe::ArithmeticRate(double (*probe)(int64_t rounds)) {
  constexpr int64_t kRounds = 3'000'000;  // some 5 ms: far longer than threads take to wake up
  return BestSum([&](int) { return MeasureRate(probe, kRounds); });
}

double LimitProbe::Float32Gigaflops() { return ArithmeticRate(kernels_.f32_probe); }
double LimitProbe::BF16Gigaflops() { return ArithmeticRate(kernels_.bf16_probe); }
double LimitProbe::Int8Gigaops() { return ArithmeticRate(kernels_.int8_probe); }

Limits LimitProbe::MeasureAll() {
  return {.read_gbps = ReadGigabytesPerSecond(),
          .f32_gflops = Float32Gigaflops(),
          .bf16_gflops = BF16Gigaflops(),
          .int8_gops = Int8Gigaops()};
}

double LimitProbe::ArithmeticGigaops(WeightFormat format, Rounding rounding) {
  if (rounding == Rounding::kNone) return Float32Gigaflops();
  return format == WeightFormat::kBF16 ? BF16Gigaflops() : Int8Gigaops();
}

}  // namespace fiddler
