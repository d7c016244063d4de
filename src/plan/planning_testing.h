// For tests of planning: random layers in every regime, and an oracle that plays a decision through slice by
// slice, sharing nothing with the planner but the cost tables.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "base/error_testing.h"
#include "base/rng.h"
#include "plan/layer_plan.h"

namespace fiddler {

inline int64_t RandomInteger(Rng& rng, int64_t min, int64_t max) {
  return min + static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(max - min + 1));
}

struct Range {
  double min = 0;
  double max = 0;
};

// Every order of magnitude as likely as the next.
inline double LogUniform(Rng& rng, Range range) {
  return range.min * std::pow(range.max / range.min, rng.NextUnit());
}

struct Layer {
  std::vector<ExpertLoad> loads;
  CostModel cost;
};

// What kind of layer. Times are relative to one slice with one token on the CPU; a knee is where time starts
// to grow with tokens.
struct Regime {
  const char* name;
  int64_t max_tokens = 1;
  Range gpu = {0.02, 0.5};
  Range link = {0.2, 4};
  Range dram = {0.05, 1};
  Range cpu_knee = {1, 16};
  Range gpu_knee = {20, 500};
  bool gpu_is_flat = false;
  Range resident = {0, 1};  // share of the slices
};

inline std::ostream& operator<<(std::ostream& stream, const Regime& regime) { return stream << regime.name; }

inline std::vector<Regime> Regimes() {
  return {
      {.name = "decode"},
      {.name = "beams, flat gpu", .max_tokens = 8, .gpu_is_flat = true},
      {.name = "prefill, flat gpu", .max_tokens = 1024, .gpu_is_flat = true},
      {.name = "small batch", .max_tokens = 32, .gpu_knee = {1, 64}},
      {.name = "prefill", .max_tokens = 1024},
      {.name = "steep gpu", .max_tokens = 64, .gpu = {0.02, 2}, .gpu_knee = {1, 4}},
      {.name = "steep gpu, late cpu",
       .max_tokens = 64,
       .gpu = {0.1, 2},
       .cpu_knee = {8, 64},
       .gpu_knee = {1, 4}},
      {.name = "slow gpu", .max_tokens = 64, .gpu = {0.5, 4}, .gpu_knee = {1, 64}},
      {.name = "slow link", .max_tokens = 256, .link = {4, 40}},
      {.name = "fast link", .max_tokens = 256, .link = {0.01, 0.2}, .gpu_knee = {1, 100}},
      {.name = "tight joint cap", .max_tokens = 16, .dram = {0.7, 1.5}, .gpu_knee = {1, 64}},
      {.name = "no residents", .max_tokens = 128, .gpu_knee = {1, 100}, .resident = {0, 0}},
      {.name = "all resident", .max_tokens = 128, .gpu = {0.1, 2}, .gpu_knee = {1, 100}, .resident = {1, 1}},
  };
}

// Ascending, of one of three forms: flat to the knee and then proportional, affine, or affine in pieces.
inline CostTable RandomTable(Rng& rng, double seconds, Range knee_range, bool is_flat) {
  const double knee = LogUniform(rng, knee_range);
  if (is_flat) return {{{1, seconds}}, "flat"};
  switch (RandomInteger(rng, 0, 2)) {
    case 0:
      return {{{1, seconds}, {knee + 1, seconds}, {2 * knee + 2, 2 * seconds}}, "roofline"};
    case 1:
      return {{{1, seconds}, {knee + 1, 2 * seconds}}, "affine"};
    default: {
      std::vector<CostTable::Knot> knots = {{1, seconds}};
      while (knots.size() < 6) {
        const CostTable::Knot last = knots.back();
        const double step = last.tokens * (0.5 + rng.NextUnit());
        knots.push_back({last.tokens + step, last.seconds + 2 * rng.NextUnit() * seconds * step / knee});
      }
      return {std::move(knots), "pieces"};
    }
  }
}

inline CostModel RandomCost(Rng& rng, const Regime& regime) {
  constexpr double kUnit = 1e-4;
  CostModel cost;
  cost.cpu = RandomTable(rng, kUnit, regime.cpu_knee, false);
  cost.cpu_start = rng.NextUnit() < 0.3 ? 0 : kUnit * LogUniform(rng, {0.01, 1});
  cost.dram_slice_seconds = kUnit * LogUniform(rng, regime.dram);
  cost.has_gpu = true;
  cost.gpu = RandomTable(rng, kUnit * LogUniform(rng, regime.gpu), regime.gpu_knee, regime.gpu_is_flat);
  cost.gpu_start = rng.NextUnit() < 0.3 ? 0 : kUnit * LogUniform(rng, {0.01, 1});
  cost.link_slice_seconds = kUnit * LogUniform(rng, regime.link);
  return cost;
}

inline std::vector<ExpertLoad> RandomLoads(Rng& rng, const Regime& regime, int64_t experts, int64_t slices) {
  std::vector<ExpertLoad> loads(static_cast<size_t>(experts));
  const double share = regime.resident.min + (regime.resident.max - regime.resident.min) * rng.NextUnit();
  for (ExpertLoad& load : loads) {
    load.tokens = static_cast<int64_t>(LogUniform(rng, {1, static_cast<double>(regime.max_tokens) + 0.999}));
    for (int64_t i = 0; i < slices; ++i) load.resident += rng.NextUnit() < share ? 1 : 0;
    load.missing = slices - load.resident;
  }
  return loads;
}

// Plays decisions of one layer through. Keeps what depends on the layer only, as brute force asks often.
class Oracle {
 public:
  explicit Oracle(const Layer& layer) : layer_(layer) {
    for (size_t i = 0; i < layer.loads.size(); ++i) {
      order_.push_back(i);
      cpu_.push_back(layer.cost.cpu.Seconds(static_cast<double>(layer.loads[i].tokens)));
      gpu_.push_back(layer.cost.gpu.Seconds(static_cast<double>(layer.loads[i].tokens)));
    }
    std::stable_sort(order_.begin(), order_.end(),
                     [&](size_t a, size_t b) { return layer.loads[a].tokens > layer.loads[b].tokens; });
  }

  LayerTimes Play(const std::vector<ExpertShare>& shares) const {
    const CostModel& cost = layer_.cost;
    double cpu = 0;
    double gpu = 0;
    int64_t cpu_slices = 0;
    int64_t gpu_slices = 0;
    int64_t fetched = 0;
    for (size_t i = 0; i < shares.size(); ++i) {
      const ExpertLoad& load = layer_.loads[i];
      for (int64_t slice = shares[i].fetch; slice < load.missing + shares[i].cpu_resident; ++slice) {
        cpu += cpu_[i];
        ++cpu_slices;
      }
      for (int64_t slice = shares[i].cpu_resident; slice < load.resident; ++slice) {
        gpu += gpu_[i];
        ++gpu_slices;
      }
    }
    for (const size_t i : order_) {
      for (int64_t slice = 0; slice < shares[i].fetch; ++slice) {
        const double arrival = static_cast<double>(++fetched) * cost.link_slice_seconds;
        gpu = std::max(gpu, arrival) + gpu_[i];
        ++gpu_slices;
      }
    }
    return {.cpu_seconds = cpu_slices > 0 ? cost.cpu_start + cpu : 0,
            .gpu_seconds = gpu_slices > 0 ? cost.gpu_start + gpu : 0,
            .dram_seconds = static_cast<double>(cpu_slices + fetched) * cost.dram_slice_seconds};
  }

  // The least of seconds() - keep_seconds * (slices fetched) over all decisions with at most max_fetch.
  double Optimum(int64_t max_fetch = std::numeric_limits<int64_t>::max(), double keep_seconds = 0) const {
    std::vector<ExpertShare> shares(layer_.loads.size());
    double best = std::numeric_limits<double>::infinity();
    for (;;) {
      int64_t fetched = 0;
      for (const ExpertShare& share : shares) fetched += share.fetch;
      if (fetched <= max_fetch)
        best = std::min(best, Play(shares).seconds() - keep_seconds * static_cast<double>(fetched));
      if (!CountUp(shares)) return best;
    }
  }

  // How many decisions there are.
  double Decisions() const {
    double count = 1;
    for (const ExpertLoad& load : layer_.loads)
      count *= static_cast<double>((load.resident + 1) * (load.missing + 1));
    return count;
  }

 private:
  bool CountUp(std::vector<ExpertShare>& shares) const {
    for (size_t i = 0; i < shares.size(); ++i) {
      if (++shares[i].fetch <= layer_.loads[i].missing) return true;
      shares[i].fetch = 0;
      if (++shares[i].cpu_resident <= layer_.loads[i].resident) return true;
      shares[i].cpu_resident = 0;
    }
    return false;
  }

  const Layer& layer_;
  std::vector<size_t> order_;  // of the experts, by descending tokens
  std::vector<double> cpu_;    // [experts], seconds a slice
  std::vector<double> gpu_;
};

}  // namespace fiddler
