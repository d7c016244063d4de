#include "calibrate/fit_costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"

namespace fiddler {
namespace {

// The largest relative error of the samples between `first` and `last` if a line joins those two.
double ChordError(std::span<const CostSample> samples, size_t first, size_t last) {
  const CostSample& a = samples[first];
  const CostSample& b = samples[last];
  const double slope = (b.seconds - a.seconds) / (b.tokens - a.tokens);
  double largest = 0;
  for (size_t i = first + 1; i < last; ++i) {
    const double line = a.seconds + slope * (samples[i].tokens - a.tokens);
    largest = std::max(largest, std::abs(line / samples[i].seconds - 1));
  }
  return largest;
}

}  // namespace

std::vector<CostSample> WithoutFalls(std::span<const CostSample> samples) {
  struct Pool {
    double weight;
    double sum;  // of weight * seconds
    size_t count;

    double mean() const { return sum / weight; }
  };
  std::vector<Pool> pools;
  for (const CostSample& sample : samples) {
    const double weight = 1 / (sample.seconds * sample.seconds);
    pools.push_back({weight, weight * sample.seconds, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean() > pools.back().mean()) {
      const Pool last = pools.back();
      pools.pop_back();
      pools.back().weight += last.weight;
      pools.back().sum += last.sum;
      pools.back().count += last.count;
    }
  }
  std::vector<CostSample> rising;
  for (const Pool& pool : pools) {
    for (size_t i = 0; i < pool.count; ++i) {
      // A pool of one is its sample to the last bit.
      const CostSample& sample = samples[rising.size()];
      rising.push_back({sample.tokens, pool.count == 1 ? sample.seconds : pool.mean()});
    }
  }
  return rising;
}

CostTable FitCosts(std::span<const CostSample> samples, double tolerance) {
  CHECK(!samples.empty());
  for (size_t i = 0; i < samples.size(); ++i) {
    CHECK(samples[i].tokens > 0 && samples[i].seconds > 0, "sample {}: {} tokens, {} s", i, samples[i].tokens,
          samples[i].seconds);
    CHECK(i == 0 || samples[i - 1].tokens < samples[i].tokens, "sample {}", i);
  }
  const std::vector<CostSample> rising = WithoutFalls(samples);
  // The best way from the first sample to each other one, by dynamic programming: fewest knots, least error.
  struct Path {
    size_t knots = std::numeric_limits<size_t>::max();
    double error = 0;
    size_t previous = 0;
  };
  std::vector<Path> best(rising.size());
  best[0] = {.knots = 1};
  for (size_t last = 1; last < rising.size(); ++last) {
    for (size_t first = 0; first < last; ++first) {
      const double error = ChordError(rising, first, last);
      if (error > tolerance) continue;
      const Path path = {best[first].knots + 1, std::max(best[first].error, error), first};
      if (std::pair(path.knots, path.error) < std::pair(best[last].knots, best[last].error))
        best[last] = path;
    }
  }
  std::vector<CostTable::Knot> knots;
  for (size_t i = rising.size() - 1;; i = best[i].previous) {
    knots.push_back({rising[i].tokens, rising[i].seconds});
    if (i == 0) break;
  }
  std::reverse(knots.begin(), knots.end());
  return {std::move(knots), "fitted table"};
}

CostModel FitCostModel(const CpuCosts& cpu, const DeviceCosts* device, double slice_bytes) {
  CHECK(cpu.read_gbps > 0 && slice_bytes > 0, "{} GB/s, {} bytes", cpu.read_gbps, slice_bytes);
  constexpr double kGiga = 1e9;
  CostModel cost;
  cost.cpu = FitCosts(cpu.slice, kFitTolerance);
  cost.cpu_start = cpu.start_seconds;
  const double dram_gbps = device ? std::max(cpu.read_gbps, device->joint_gbps) : cpu.read_gbps;
  cost.dram_slice_seconds = std::min(slice_bytes / (dram_gbps * kGiga), cost.cpu.Seconds(1));
  cost.has_gpu = device != nullptr;
  if (!device) return cost;
  cost.cpu_start += device->handoff_p50_seconds;  // x comes from the device, y goes back
  cost.gpu = FitCosts(device->slice, kFitTolerance);
  cost.gpu_start = device->start_seconds;
  cost.link_slice_seconds = device->link_slice_seconds;
  return cost;
}

}  // namespace fiddler
