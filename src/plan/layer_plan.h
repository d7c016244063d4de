// One layer, one decision: which slices of its experts run where, so that CPU, GPU and the link between them
// are done together. A pure function of what is passed in: no clock, no device. Every regime (decode, beams,
// small batches, prefill) is the same question, as is a machine without a GPU.
//
//   minimize max(CPU, GPU, memory) over, for each active expert, the missing slices that are fetched and the
//   resident slices that the CPU takes; the CPU has the other missing ones, the GPU the other resident ones.
//   CPU    = cpu_start + sum over its slices of cpu(n); 0 if it has none
//   GPU    = gpu_start + flow shop link -> GPU: first the resident slices, then the fetched ones by
//   descending n;
//            fetched slice i is there at (i + 1) * link_slice_seconds and takes gpu(n); 0 if it has none
//   memory = (slices the CPU runs + slices fetched) * dram_slice_seconds: what CPU and link share
//
// The problem is weakly NP-hard when gpu(n) is affine; split_search.h says what is done about it.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "plan/cost_model.h"
#include "plan/split_search.h"

namespace fiddler {

// An expert that the router chose for at least one token.
struct ExpertLoad {
  int64_t tokens = 0;    // at least 1
  int64_t resident = 0;  // slices in GPU slots
  int64_t missing = 0;   // slices in host memory only
};

struct ExpertShare {
  int64_t fetch = 0;         // missing slices that cross the link; the CPU runs the other missing ones
  int64_t cpu_resident = 0;  // resident slices that the CPU runs; the GPU runs the others and the fetched

  bool operator==(const ExpertShare&) const = default;
};

struct PlanOptions {
  // Slots that fetched slices can land in.
  int64_t max_fetch = std::numeric_limits<int64_t>::max();
  // What it is worth that a fetched slice stays: it is fetched also if that takes up to so many seconds
  // longer in this layer. About (uses to expect before eviction) * (cpu(1) - gpu(1)).
  double keep_seconds = 0;
};

struct LayerPlan {
  std::span<const ExpertShare> shares;  // one for each load, valid until the planner's next Plan
  LayerTimes times;                     // predicted
  int64_t fetched = 0;                  // slices, of all experts
};

// Holds the scratch memory, so that planning allocates nothing. Not thread-safe.
class LayerPlanner {
 public:
  explicit LayerPlanner(size_t max_experts);

  // Experts with equally many tokens are alike to the plan: among them the first in `loads` are fetched
  // first, and the last give their resident slices to the CPU first. CHECKs that there are no more than
  // max_experts, each with tokens, and without a GPU no resident slice. The same input gives the same plan.
  LayerPlan Plan(std::span<const ExpertLoad> loads, const CostModel& cost, const PlanOptions& options = {});

  // What any other decision would take. CHECKs that the shares are within the loads.
  LayerTimes Predict(std::span<const ExpertLoad> loads, std::span<const ExpertShare> shares,
                     const CostModel& cost);

 private:
  struct Entry {
    int64_t tokens;
    size_t expert;  // index in loads
  };

  void MakeGroups(std::span<const ExpertLoad> loads, const CostModel& cost);

  std::vector<Entry> entries_;      // [experts], by descending tokens, then ascending index
  std::vector<SliceGroup> groups_;  // of the entries with equal tokens, in their order
  std::vector<ExpertShare> shares_;
  SplitSearch search_;
};

}  // namespace fiddler
