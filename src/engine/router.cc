#include "engine/router.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/route.h"

namespace fiddler {

void RouteToken(const MoeSpec& moe, std::span<float> logits, std::span<int32_t> experts,
                std::span<float> weights) {
  CHECK(std::ssize(logits) == moe.num_experts && std::ssize(experts) == moe.top_k &&
            std::ssize(weights) == moe.top_k,
        "{} logits, {} experts", logits.size(), experts.size());
  Route({.num_experts = moe.num_experts,
         .top_k = moe.top_k,
         .renormalize = moe.renormalize,
         .logits = logits.data(),
         .experts = experts.data(),
         .weights = weights.data()});
}

ExpertGroups::ExpertGroups(int64_t max_assignments, int64_t num_experts)
    : groups_(static_cast<size_t>(num_experts)),
      next_slot_(static_cast<size_t>(num_experts)),
      token_of_slot_(static_cast<size_t>(max_assignments)),
      slot_of_(static_cast<size_t>(max_assignments)) {}

void ExpertGroups::Build(std::span<const int32_t> experts, int64_t top_k) {
  CHECK(experts.size() <= slot_of_.size(), "{} assignments", experts.size());
  // A counting sort: tokens an expert has, then its first slot, then every assignment in its place.
  std::fill(next_slot_.begin(), next_slot_.end(), 0);
  for (int32_t expert : experts) ++next_slot_[static_cast<size_t>(expert)];
  num_groups_ = 0;
  int64_t slot = 0;
  for (size_t expert = 0; expert < next_slot_.size(); ++expert) {
    const int64_t tokens = next_slot_[expert];
    next_slot_[expert] = slot;
    if (tokens > 0) groups_[num_groups_++] = {static_cast<int32_t>(expert), slot, tokens};
    slot += tokens;
  }
  for (size_t i = 0; i < experts.size(); ++i) {
    const auto place = static_cast<size_t>(next_slot_[static_cast<size_t>(experts[i])]++);
    token_of_slot_[place] = static_cast<int32_t>(static_cast<int64_t>(i) / top_k);
    slot_of_[i] = static_cast<int32_t>(place);
  }
}

void ExpertGroups::BySlot(std::span<const float> of_assignment, std::span<float> of_slot) const {
  for (size_t i = 0; i < of_assignment.size(); ++i) {
    of_slot[static_cast<size_t>(slot_of_[i])] = of_assignment[i];
  }
}

}  // namespace fiddler
