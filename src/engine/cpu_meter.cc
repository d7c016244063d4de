#include "engine/cpu_meter.h"

#include <algorithm>

#include "base/timing.h"

namespace fiddler {
namespace {

// Weights of one run: a layer of small experts runs several of them at once.
constexpr int64_t kRunBytes = 16 << 20;
constexpr int64_t kMaxPasses = 8;
constexpr double kTimedOperations = 2e11;  // of one timing at most: 0.3 s on two fast cores

}  // namespace

CpuMeter::CpuMeter(const SlicedFfn& expert, const CpuKernels& kernels, ThreadPool& pool,
                   Arithmetic arithmetic, std::span<const int64_t> tokens, uint64_t bytes)
    : kernels_(kernels),
      pool_(pool),
      tokens_(tokens.begin(), tokens.end()),
      passes_(std::clamp(kRunBytes / static_cast<int64_t>(expert.bytes()), int64_t{1}, kMaxPasses)),
      made_up_(expert, bytes, pool),
      timer_({made_up_.experts().begin(), made_up_.experts().end()}, kernels, pool, arithmetic,
             tokens_.back(), passes_),
      probe_(kernels, pool, made_up_.bytes()),
      seconds_(tokens.size()) {
  for (const int64_t n : tokens_) timer_.Time(1, n, passes_);  // touches every buffer once; not counted
}

void CpuMeter::Round() {
  const SlicedFfn& expert = timer_.expert();
  const double operations_of_token = 6.0 * static_cast<double>(passes_ * expert.hidden * expert.intermediate);
  const auto slices = static_cast<double>(passes_ * expert.num_slices());
  const int64_t all_runs = std::max<int64_t>(1, static_cast<int64_t>(timer_.num_experts()) / passes_);
  start_.push_back(TimeCachedLayer(kernels_, pool_));
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const double operations = operations_of_token * static_cast<double>(tokens_[i]);
    const int64_t runs =
        std::clamp(static_cast<int64_t>(kTimedOperations / operations), int64_t{1}, all_runs);
    const double run_seconds = timer_.Time(runs, tokens_[i], passes_);
    // The start is not of the slices; where it is nearly all there is, half is as good a guess as any.
    seconds_[i].push_back(std::max(run_seconds - start_.back(), run_seconds / 2) / slices);
  }
  read_gbps_.push_back(probe_.ReadGigabytesPerSecond());
  peak_gops_.push_back(probe_.ArithmeticGigaops(expert.format, timer_.rounding()));
}

CpuCosts CpuMeter::Medians() const {
  CpuCosts costs = {.slice = {},
                    .start_seconds = Median(start_),
                    .read_gbps = Median(read_gbps_),
                    .peak_gops = Median(peak_gops_)};
  for (size_t i = 0; i < tokens_.size(); ++i) {
    costs.slice.push_back({static_cast<double>(tokens_[i]), Median(seconds_[i])});
  }
  return costs;
}

}  // namespace fiddler
