#include "cli/expert_bench.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/timing.h"
#include "calibrate/limits.h"
#include "engine/expert_timer.h"

namespace fiddler {
namespace {

constexpr double kTimedBytes = 300e6;  // read by one timing: some 10 ms, and far more than the caches hold

std::vector<SlicedFfn> AllExperts(const PackedModel& model) {
  std::vector<SlicedFfn> experts;
  for (const PackedLayer& layer : model.weights.layers) {
    experts.insert(experts.end(), layer.experts.begin(), layer.experts.end());
  }
  CHECK(!experts.empty());
  return experts;
}

}  // namespace

std::vector<ExpertTiming> TimeExperts(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                      Arithmetic arithmetic, std::span<const int64_t> tokens,
                                      int64_t rounds) {
  ExpertTimer timer(AllExperts(model), kernels, pool, arithmetic,
                    *std::max_element(tokens.begin(), tokens.end()));
  LimitProbe probe(kernels, pool);
  const SlicedFfn& expert = timer.expert();
  const auto bytes = static_cast<double>(expert.bytes());
  const auto count = std::max<int64_t>(1, static_cast<int64_t>(kTimedBytes / bytes));
  const double operations_of_token = 6.0 * static_cast<double>(expert.hidden * expert.intermediate);

  struct Samples {
    std::vector<double> seconds, percent_of_read, percent_of_peak, times_one_token;
  };
  std::vector<Samples> samples(tokens.size());
  for (const int64_t n : tokens) timer.Time(1, n);  // touches every buffer once; not counted
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const double one = timer.Time(count, 1);
      const double read = probe.ReadGigabytesPerSecond() * 1e9;
      const double seconds = timer.Time(count, tokens[i]);
      const double peak = probe.ArithmeticGigaops(expert.format, timer.rounding()) * 1e9;
      samples[i].seconds.push_back(seconds);
      samples[i].percent_of_read.push_back(100 * bytes / seconds / read);
      samples[i].percent_of_peak.push_back(100 * operations_of_token * static_cast<double>(tokens[i]) /
                                           seconds / peak);
      samples[i].times_one_token.push_back(seconds / one);
    }
  }
  std::vector<ExpertTiming> timings;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double seconds = Median(samples[i].seconds);
    timings.push_back({.tokens = tokens[i],
                       .seconds = seconds,
                       .gbps = bytes / seconds / 1e9,
                       .gflops = operations_of_token * static_cast<double>(tokens[i]) / seconds / 1e9,
                       .percent_of_read = Median(samples[i].percent_of_read),
                       .percent_of_peak = Median(samples[i].percent_of_peak),
                       .times_one_token = Median(samples[i].times_one_token)});
  }
  return timings;
}

}  // namespace fiddler
