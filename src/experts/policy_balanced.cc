#include <algorithm>

#include "base/check.h"
#include "experts/policy_base.h"

namespace fiddler {
namespace {

// Of what a token wanted, as much is left 34 tokens later as is gone. Of 0.8 to 0.99 never far from the best
// (docs/decisions.md).
constexpr double kDecay = 0.98;
// Where memory or the CPU limits, many numbers of fetched slices take as long: the largest brings most into
// the slots. So small a share of what a slice on the GPU saves later that it only decides between equals.
constexpr double kKeepShare = 1e-3;

class Balanced final : public PolicyBase {
 public:
  Balanced(const PolicyGeometry& geometry, const CostModel& cost)
      : PolicyBase("balanced", geometry, cost),
        ordered_(static_cast<size_t>(geometry.num_experts)),
        cancelled_(ordered_.size()),
        shares_(ordered_.size()) {
    order_.reserve(ordered_.size());
    if (cost.has_gpu) keep_seconds_ = kKeepShare * std::max(0.0, cost.cpu.Seconds(1) - cost.gpu.Seconds(1));
  }

  // Each layer has slots of its own: a chunk of a prompt goes through all layers, so in one pool what the
  // first layers just wanted would always look worth more than what the last are about to.
  ResidencyOptions Slots() const override {
    ResidencyOptions options = SlotOptions(Eviction::kDecayedFrequency, num_slots());
    options.per_layer = true;
    options.decay = kDecay;
    return options;
  }

  // The last expert of a layer may come in part.
  std::vector<ExpertId> Placement(std::span<const int64_t> popularity) const override {
    if (num_slices() == 0) return {};
    return MostPopularOfLayers(popularity, (slots_per_layer() + num_slices() - 1) / num_slices());
  }

  LayerDecision Decide(int64_t layer, std::span<const ExpertWork> work, const Residency& residency) override {
    const std::span<const ExpertWork> ordered = Ordered(layer, work, residency);
    bool can_stay = false;
    for (const ExpertWork& expert : work)
      can_stay = can_stay || residency.Room(residency.IdOf(layer, expert.expert)) > 0;
    const std::span<const ExpertLoad> loads = Loads(layer, ordered, residency);
    const LayerPlan plan = planner().Plan(loads, cost(), {.keep_seconds = can_stay ? keep_seconds_ : 0});
    LayerTimes times = plan.times;
    if (CancelOut(plan.shares)) times = planner().Predict(loads, {cancelled_.data(), work.size()}, cost());
    for (size_t i = 0; i < work.size(); ++i) shares_[order_[i].index] = cancelled_[i];
    return {.shares = {shares_.data(), work.size()}, .times = times};
  }

 private:
  struct Rank {
    double worth;
    size_t index;  // in work
  };

  // To fetch a slice of an expert while the CPU takes a resident one of it is in vain. Whether there was one.
  bool CancelOut(std::span<const ExpertShare> shares) {
    bool any = false;
    for (size_t i = 0; i < shares.size(); ++i) {
      const int64_t in_vain = std::min(shares[i].fetch, shares[i].cpu_resident);
      cancelled_[i] = {.fetch = shares[i].fetch - in_vain, .cpu_resident = shares[i].cpu_resident - in_vain};
      any = any || in_vain > 0;
    }
    return any;
  }

  // Among experts with equally many tokens the plan fetches from the first: those that will stay longest.
  std::span<const ExpertWork> Ordered(int64_t layer, std::span<const ExpertWork> work,
                                      const Residency& residency) {
    CHECK(work.size() <= ordered_.size(), "{} of {} experts", work.size(), ordered_.size());
    order_.clear();
    for (size_t i = 0; i < work.size(); ++i)
      order_.push_back({residency.Worth(residency.IdOf(layer, work[i].expert)), i});
    std::sort(order_.begin(), order_.end(), [](const Rank& a, const Rank& b) {
      return a.worth != b.worth ? a.worth > b.worth : a.index < b.index;
    });
    for (size_t i = 0; i < order_.size(); ++i) ordered_[i] = work[order_[i].index];
    return {ordered_.data(), work.size()};
  }

  std::vector<Rank> order_;             // of the layer at hand
  std::vector<ExpertWork> ordered_;     // [num_experts]
  std::vector<ExpertShare> cancelled_;  // [num_experts], as ordered_
  std::vector<ExpertShare> shares_;     // [num_experts], as the work
  double keep_seconds_ = 0;
};

}  // namespace

std::unique_ptr<Policy> MakeBalanced(const PolicyGeometry& geometry, const CostModel& cost) {
  return std::make_unique<Balanced>(geometry, cost);
}

}  // namespace fiddler
