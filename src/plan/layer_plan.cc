#include "plan/layer_plan.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {

LayerPlanner::LayerPlanner(size_t max_experts) : search_(max_experts) {
  entries_.reserve(max_experts);
  groups_.reserve(max_experts);
  shares_.resize(max_experts);
}

void LayerPlanner::MakeGroups(std::span<const ExpertLoad> loads, const CostModel& cost) {
  CHECK(loads.size() <= shares_.size(), "{} experts", loads.size());
  entries_.clear();
  groups_.clear();
  for (size_t i = 0; i < loads.size(); ++i) {
    const ExpertLoad& load = loads[i];
    CHECK(load.tokens > 0 && load.resident >= 0 && load.missing >= 0, "expert {}: {} tokens, {} + {} slices",
          i, load.tokens, load.resident, load.missing);
    CHECK(cost.has_gpu || load.resident == 0, "expert {}: {} resident slices without a GPU", i,
          load.resident);
    entries_.push_back({load.tokens, i});
  }
  const auto comes_first = [](const Entry& a, const Entry& b) {
    return a.tokens != b.tokens ? a.tokens > b.tokens : a.expert < b.expert;
  };
  if (!std::is_sorted(entries_.begin(), entries_.end(), comes_first))  // decode: all have one token
    std::sort(entries_.begin(), entries_.end(), comes_first);
  int64_t tokens = 0;
  for (const Entry& entry : entries_) {
    if (entry.tokens != tokens) {
      tokens = entry.tokens;
      const auto count = static_cast<double>(tokens);
      groups_.push_back({.cpu_seconds = cost.cpu.Seconds(count), .gpu_seconds = cost.gpu.Seconds(count)});
    }
    groups_.back().resident += loads[entry.expert].resident;
    groups_.back().missing += loads[entry.expert].missing;
  }
}

LayerPlan LayerPlanner::Plan(std::span<const ExpertLoad> loads, const CostModel& cost,
                             const PlanOptions& options) {
  CHECK(options.max_fetch >= 0 && options.keep_seconds >= 0, "{} slices, {} s", options.max_fetch,
        options.keep_seconds);
  MakeGroups(loads, cost);
  search_.Minimize(groups_, cost, cost.has_gpu ? options.max_fetch : 0, options.keep_seconds);

  LayerPlan plan = {.shares = {shares_.data(), loads.size()}, .times = PredictGroups(groups_, cost)};
  size_t first = 0;
  for (const SliceGroup& group : groups_) {
    plan.fetched += group.fetch;
    int64_t fetch = group.fetch;
    int64_t cpu_resident = group.cpu_resident;
    size_t end = first;
    for (; end < entries_.size() && entries_[end].tokens == entries_[first].tokens; ++end) {
      const size_t expert = entries_[end].expert;
      shares_[expert].fetch = std::min(fetch, loads[expert].missing);
      fetch -= shares_[expert].fetch;
    }
    for (size_t i = end; i-- > first;) {
      const size_t expert = entries_[i].expert;
      shares_[expert].cpu_resident = std::min(cpu_resident, loads[expert].resident);
      cpu_resident -= shares_[expert].cpu_resident;
    }
    first = end;
  }
  return plan;
}

LayerTimes LayerPlanner::Predict(std::span<const ExpertLoad> loads, std::span<const ExpertShare> shares,
                                 const CostModel& cost) {
  CHECK(shares.size() == loads.size(), "{} shares of {} experts", shares.size(), loads.size());
  MakeGroups(loads, cost);
  size_t group = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (i > 0 && entries_[i].tokens != entries_[i - 1].tokens) ++group;
    const size_t expert = entries_[i].expert;
    const ExpertShare& share = shares[expert];
    CHECK(share.fetch >= 0 && share.fetch <= loads[expert].missing && share.cpu_resident >= 0 &&
              share.cpu_resident <= loads[expert].resident,
          "expert {}: fetch {}, resident on the CPU {}", expert, share.fetch, share.cpu_resident);
    CHECK(cost.has_gpu || share.fetch == 0, "expert {}: fetches {} slices without a GPU", expert,
          share.fetch);
    groups_[group].fetch += share.fetch;
    groups_[group].cpu_resident += share.cpu_resident;
  }
  return PredictGroups(groups_, cost);
}

}  // namespace fiddler
