// The search behind layer_plan.h, on groups: experts with equally many tokens are one, as their slices cost
// the same and only how many of them run where matters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/cost_model.h"

namespace fiddler {

struct SliceGroup {
  double cpu_seconds = 0;  // one slice on the CPU
  double gpu_seconds = 0;  // one slice on the GPU
  int64_t resident = 0;    // slices
  int64_t missing = 0;
  // The decision.
  int64_t fetch = 0;         // of the missing
  int64_t cpu_resident = 0;  // of the resident
};

// When the two sides and the memory they share are done with a layer, in seconds.
struct LayerTimes {
  double cpu_seconds = 0;
  double gpu_seconds = 0;
  double dram_seconds = 0;

  double seconds() const;  // the last of them
};

// `groups` in descending order of tokens: the order in which the GPU gets fetched slices.
LayerTimes PredictGroups(std::span<const SliceGroup> groups, const CostModel& cost);

// Not thread-safe: owns the scratch memory. Allocates only when it is made.
class SplitSearch {
 public:
  explicit SplitSearch(size_t max_groups);

  // Sets fetch and cpu_resident of each group, in descending order of tokens, so that seconds() less
  // keep_seconds for each fetched slice is small. At most max_fetch slices are fetched in all.
  //
  // Exact where GPU time is the same for all groups (decode: one group). Elsewhere, for keep_seconds == 0:
  // within 0.2% of the best for up to 64 slices, unless there are too many ways to try in some 20 us; near it
  // beyond. layer_plan_test.cc prints how near.
  void Minimize(std::span<SliceGroup> groups, const CostModel& cost, int64_t max_fetch, double keep_seconds);

 private:
  struct Decision {
    int64_t fetch = 0;
    int64_t cpu_resident = 0;
  };
  struct Problem;

  void ScanInOrders(Problem& problem);
  void BranchAndBound(Problem& problem);
  void Branch(Problem& problem, size_t depth, double cpu, double gpu);
  void Offer(Problem& problem);
  void LineSearch(Problem& problem, size_t group);

  std::vector<Decision> best_;  // [groups], as everything below but for one
  // Of the scans.
  std::vector<double> keys_;
  std::vector<size_t> fetch_order_;
  std::vector<size_t> give_order_;
  std::vector<double> low_turns_;
  std::vector<double> high_turns_;
  // Of the branches.
  std::vector<size_t> branch_order_;
  std::vector<double>
      least_left_;  // [groups + 1]: of the groups from this depth on, weighted seconds at least
};

}  // namespace fiddler
