#include "experts/policy_base.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {

PolicyBase::PolicyBase(std::string_view name, const PolicyGeometry& geometry, const CostModel& cost)
    : name_(name),
      is_moe_(geometry.is_moe.begin(), geometry.is_moe.end()),
      num_experts_(geometry.num_experts),
      num_slices_(geometry.num_slices),
      num_slots_(cost.has_gpu ? geometry.num_slots : 0),
      cost_(cost),
      planner_(static_cast<size_t>(geometry.num_experts)),
      loads_(static_cast<size_t>(geometry.num_experts)) {
  CHECK(geometry.num_layers >= 1 && std::ssize(geometry.is_moe) == geometry.num_layers,
        "{} layers, {} told MoE or not", geometry.num_layers, geometry.is_moe.size());
  CHECK(geometry.num_slices >= 0 && geometry.num_slots >= 0, "{} slices, {} slots", geometry.num_slices,
        geometry.num_slots);
}

ResidencyOptions PolicyBase::SlotOptions(Eviction eviction, int64_t num_slots) const {
  return {.num_layers = num_layers(),
          .num_experts = num_experts_,
          .num_slices = num_slices_,
          .num_slots = num_slots,
          .is_moe = is_moe_,
          .eviction = eviction};
}

std::vector<ExpertId> PolicyBase::ByPopularity(std::span<const int64_t> popularity) const {
  CHECK(popularity.empty() || std::ssize(popularity) == num_layers() * num_experts_, "popularity of {}",
        popularity.size());
  std::vector<ExpertId> ids;
  for (int64_t expert = 0; expert < num_experts_; ++expert) {
    for (int64_t layer = 0; layer < num_layers(); ++layer) {
      const auto id = static_cast<ExpertId>(layer * num_experts_ + expert);
      if (IsMoe(id)) ids.push_back(id);
    }
  }
  if (popularity.empty()) return ids;
  std::stable_sort(ids.begin(), ids.end(), [&](ExpertId a, ExpertId b) {
    return popularity[static_cast<size_t>(a)] > popularity[static_cast<size_t>(b)];
  });
  return ids;
}

std::vector<ExpertId> PolicyBase::MostPopularOfLayers(std::span<const int64_t> popularity,
                                                      int64_t experts) const {
  std::vector<ExpertId> ids = ByPopularity(popularity);
  std::vector<int64_t> left(is_moe_.size(), experts);
  std::erase_if(ids, [&](ExpertId id) { return left[static_cast<size_t>(id / num_experts_)]-- <= 0; });
  return ids;
}

int64_t PolicyBase::slots_per_layer() const {
  const auto layers = std::count(is_moe_.begin(), is_moe_.end(), uint8_t{1});
  return layers == 0 ? 0 : num_slots_ / layers;
}

std::span<const ExpertLoad> PolicyBase::Loads(int64_t layer, std::span<const ExpertWork> work,
                                              const Residency& residency) {
  CHECK(work.size() <= loads_.size(), "{} of {} experts", work.size(), loads_.size());
  for (size_t i = 0; i < work.size(); ++i) {
    const int64_t resident = residency.Resident(residency.IdOf(layer, work[i].expert));
    loads_[i] = {.tokens = work[i].tokens, .resident = resident, .missing = num_slices_ - resident};
  }
  return {loads_.data(), work.size()};
}

}  // namespace fiddler
