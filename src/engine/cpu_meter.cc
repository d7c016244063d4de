#include "engine/cpu_meter.h"

#include <algorithm>

#include "base/timing.h"

namespace fiddler {
namespace {

// Weights of one run: a layer of small experts runs several of them at once.
constexpr int64_t kRunBytes = 16 << 20;
constexpr int64_t kMaxPasses = 8;
constexpr double kLongSeconds = 1;  // a run that takes longer is the last: more tokens are not measured

}  // namespace

CpuMeter::CpuMeter(const SlicedFfn& expert, const CpuKernels& kernels, ThreadPool& pool,
                   Arithmetic arithmetic, std::span<const int64_t> tokens, uint64_t bytes,
                   double timed_seconds)
    : kernels_(kernels),
      pool_(pool),
      tokens_(tokens.begin(), tokens.end()),
      passes_(std::clamp(kRunBytes / static_cast<int64_t>(expert.bytes()), int64_t{1}, kMaxPasses)),
      made_up_(expert, bytes, pool),
      timer_({made_up_.experts().begin(), made_up_.experts().end()}, kernels, pool, arithmetic,
             tokens_.back(), passes_),
      probe_(kernels, pool, made_up_.bytes()) {
  const int64_t all_runs = std::max<int64_t>(1, static_cast<int64_t>(timer_.num_experts()) / passes_);
  for (const int64_t n : tokens_) {
    const double seconds = timer_.Time(1, n, passes_);  // touches every buffer once; counted for nothing else
    runs_.push_back(std::clamp(static_cast<int64_t>(timed_seconds / seconds), int64_t{1}, all_runs));
    if (seconds > kLongSeconds) break;
  }
  tokens_.resize(runs_.size());
  seconds_.resize(runs_.size());
}

void CpuMeter::Round() {
  const SlicedFfn& expert = timer_.expert();
  const auto slices = static_cast<double>(passes_ * expert.num_slices());
  start_.push_back(TimeCachedLayer(kernels_, pool_));
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const double run_seconds = timer_.Time(runs_[i], tokens_[i], passes_);
    // The start is not of the slices; where it is nearly all there is, half is as good a guess as any.
    seconds_[i].push_back(std::max(run_seconds - start_.back(), run_seconds / 2) / slices);
  }
  read_gbps_.push_back(probe_.ReadGigabytesPerSecond());
  peak_gops_.push_back(probe_.ArithmeticGigaops(expert.format, timer_.rounding()));
}

CpuMeter::Reading CpuMeter::ReadExperts(double seconds) {
  const double one = timer_.Time(1, 1, passes_);
  const int64_t runs = std::max<int64_t>(1, static_cast<int64_t>(seconds / one));
  const double rest = timer_.Time(runs, 1, passes_) * static_cast<double>(runs);
  return {.bytes = static_cast<double>((runs + 1) * passes_) * static_cast<double>(timer_.expert().bytes()),
          .seconds = one + rest};
}

CpuCosts CpuMeter::Medians() const {
  CpuCosts costs = {.slice = {},
                    .start_seconds = Median(start_),
                    .read_gbps = Median(read_gbps_),
                    .peak_gops = Median(peak_gops_),
                    .spread = 0};
  std::vector<double> spreads;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const double median = Median(seconds_[i]);
    costs.slice.push_back({static_cast<double>(tokens_[i]), median});
    spreads.push_back((Quantile(seconds_[i], 0.75) - Quantile(seconds_[i], 0.25)) / median);
  }
  costs.spread = Median(spreads);
  return costs;
}

}  // namespace fiddler
