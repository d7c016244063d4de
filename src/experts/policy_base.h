// What the policies of policy.cc and policy_balanced.cc share.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "experts/policy.h"

namespace fiddler {

// Holds the scratch memory, so that Decide allocates nothing.
class PolicyBase : public Policy {
 public:
  std::string_view name() const override { return name_; }

 protected:
  PolicyBase(std::string_view name, const PolicyGeometry& geometry, const CostModel& cost);

  ResidencyOptions SlotOptions(Eviction eviction, int64_t num_slots) const;

  // All experts there are, by descending popularity; ties, and all if popularity is empty, by number and then
  // by layer, so that every layer has as many.
  std::vector<ExpertId> ByPopularity(std::span<const int64_t> popularity) const;
  // Those of ByPopularity that are among the first `experts` of their layer.
  std::vector<ExpertId> MostPopularOfLayers(std::span<const int64_t> popularity, int64_t experts) const;
  bool IsMoe(ExpertId id) const { return is_moe_[static_cast<size_t>(id / num_experts())] != 0; }

  // What the layer plan is asked about: an element for each ExpertWork. Valid until the next call.
  std::span<const ExpertLoad> Loads(int64_t layer, std::span<const ExpertWork> work,
                                    const Residency& residency);

  int64_t num_layers() const { return static_cast<int64_t>(is_moe_.size()); }
  int64_t num_experts() const { return num_experts_; }
  int64_t num_slices() const { return num_slices_; }
  int64_t num_slots() const { return num_slots_; }  // 0 without a GPU
  int64_t slots_per_layer() const;                  // of those with experts
  const CostModel& cost() const { return cost_; }
  LayerPlanner& planner() { return planner_; }

 private:
  std::string_view name_;
  std::vector<uint8_t> is_moe_;  // [num_layers]
  int64_t num_experts_;
  int64_t num_slices_;
  int64_t num_slots_;
  CostModel cost_;
  LayerPlanner planner_;
  std::vector<ExpertLoad> loads_;  // [num_experts]
};

std::unique_ptr<Policy> MakeBalanced(const PolicyGeometry& geometry, const CostModel& cost);

}  // namespace fiddler
