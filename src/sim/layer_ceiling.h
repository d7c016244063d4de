// The roofline of one layer's experts: no split of its slices between CPU and GPU, however they are cut, is
// done sooner. What a simulated run is held against.
//
//   T >= min over splits of max{ CPU, GPU, link, memory }
//   CPU    = cpu_start + n-weighted slices on the CPU     GPU    = gpu_start + those on the GPU
//   link   = fetched slices                               memory = all slices that are not on the GPU yet
// With one token an expert this is the formula of shared/facts/roofline.md: m slices missed and computed by
// the CPU, x fetched, max{ (N - m) S / B_gpu, m S / B_cpu, x S / B_link, (m + x) S / B_dram } plus hand-over.
// Unlike LayerTimes it cuts slices at will and lets the GPU compute a slice while it still arrives.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "plan/cost_model.h"
#include "plan/layer_plan.h"

namespace fiddler {

// Holds the scratch memory. Not thread-safe.
class LayerCeiling {
 public:
  explicit LayerCeiling(size_t max_experts);

  // Seconds. Exact if all loads have equally many tokens, else a bound that is less than 0.1% below the
  // optimum as a rule.
  double Seconds(std::span<const ExpertLoad> loads, const CostModel& cost);

 private:
  struct Group {  // of experts with equally many tokens
    int64_t tokens = 0;
    double resident = 0;  // slices
    double missing = 0;
    double cpu_seconds = 0;  // a slice
    double gpu_seconds = 0;
  };

  double OneGroup(const Group& group, const CostModel& cost) const;
  double SharedBound(const CostModel& cost) const;
  double Weighted(double cpu_weight, double gpu_weight, double link_weight, const CostModel& cost) const;

  std::vector<Group> groups_;
};

}  // namespace fiddler
