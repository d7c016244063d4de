#include <algorithm>

#include "experts/policy_base.h"

namespace fiddler {
namespace {

// Counts fall to a half in 14 tokens.
constexpr double kDecay = 0.95;

class Balanced final : public PolicyBase {
 public:
  Balanced(const PolicyGeometry& geometry, const CostModel& cost)
      : PolicyBase("balanced", geometry, cost), shares_(static_cast<size_t>(geometry.num_experts)) {}

  ResidencyOptions Slots() const override {
    ResidencyOptions options = SlotOptions(Eviction::kDecayedFrequency, num_slots());
    options.decay = kDecay;
    return options;
  }

  // The last expert may come in part.
  std::vector<ExpertId> Placement(std::span<const int64_t> popularity) const override {
    std::vector<ExpertId> ids = ByPopularity(popularity);
    const int64_t experts = num_slices() == 0 ? 0 : (num_slots() + num_slices() - 1) / num_slices();
    ids.resize(std::min(ids.size(), static_cast<size_t>(experts)));
    return ids;
  }

  LayerDecision Decide(int64_t layer, std::span<const ExpertWork> work, const Residency& residency) override {
    const std::span<const ExpertLoad> loads = Loads(layer, work, residency);
    const LayerPlan plan = planner().Plan(loads, cost());
    for (size_t i = 0; i < work.size(); ++i) {
      // A slice that is fetched while the CPU takes a resident one in its place.
      const int64_t in_vain = std::min(plan.shares[i].fetch, plan.shares[i].cpu_resident);
      shares_[i] = {.fetch = plan.shares[i].fetch - in_vain,
                    .cpu_resident = plan.shares[i].cpu_resident - in_vain};
    }
    return {.shares = {shares_.data(), work.size()}, .times = plan.times};
  }

 private:
  std::vector<ExpertShare> shares_;  // [num_experts]
};

}  // namespace

std::unique_ptr<Policy> MakeBalanced(const PolicyGeometry& geometry, const CostModel& cost) {
  return std::make_unique<Balanced>(geometry, cost);
}

}  // namespace fiddler
