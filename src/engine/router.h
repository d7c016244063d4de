// Which experts a token goes to: softmax over all experts, the top k, their weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/spec.h"

namespace fiddler {

// From one token's router logits [num_experts] (overwritten) to its experts [top_k], highest weight first,
// ties to the lower number, and what their outputs are multiplied with.
void RouteToken(const MoeSpec& moe, std::span<float> logits, std::span<int32_t> experts,
                std::span<float> weights);

// The tokens of a batch, grouped by expert. Assignment i = token * top_k + k is the k-th choice of a token;
// its place in the grouped order is a slot. Reused from layer to layer: never allocates after construction.
class ExpertGroups {
 public:
  struct Group {
    int32_t expert;
    int64_t first_slot;
    int64_t tokens;
  };

  ExpertGroups(int64_t max_assignments, int64_t num_experts);

  // experts: [tokens * top_k].
  void Build(std::span<const int32_t> experts, int64_t top_k);

  std::span<const Group> groups() const {
    return {groups_.data(), num_groups_};
  }                                                                       // those with tokens, by expert
  const int32_t* token_of_slot() const { return token_of_slot_.data(); }  // [slots]
  int32_t SlotOf(int64_t assignment) const { return slot_of_[static_cast<size_t>(assignment)]; }
  // of_slot[SlotOf(i)] = of_assignment[i].
  void BySlot(std::span<const float> of_assignment, std::span<float> of_slot) const;

 private:
  std::vector<Group> groups_;  // [num_experts]
  size_t num_groups_ = 0;
  std::vector<int64_t> next_slot_;      // [num_experts]
  std::vector<int32_t> token_of_slot_;  // [max_assignments]
  std::vector<int32_t> slot_of_;        // [max_assignments]
};

}  // namespace fiddler
