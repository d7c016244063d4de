// Which slices of which experts are in GPU slots, and who makes room for whom. Decides only: no memory is
// moved, no clock read, so that the same object drives the engine (experts/expert_store.h), a simulation and
// a test.
//
// Slices of an expert are alike, so they enter in order 0, 1, 2, ... and leave from the last: the residents
// of an expert are always its first ones, and one number says which. Slots are one pool for all layers, or
// cut evenly among them.
//
// A plain value, not thread-safe. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "experts/eviction_queue.h"

namespace fiddler {

using ExpertId = int32_t;  // layer * num_experts + expert; layers without experts count too
using SlotId = int32_t;

enum class Eviction : uint8_t {
  kNever,             // what was placed stays
  kLru,               // the expert wanted longest ago goes first
  kDecayedFrequency,  // the expert that the fewest tokens wanted lately; ties to the one wanted longest ago
};

struct ResidencyOptions {
  int64_t num_layers = 0;
  int64_t num_experts = 0;  // of a layer
  int64_t num_slices = 0;   // of an expert
  int64_t num_slots = 0;
  bool per_layer = false;            // every layer that has experts has as many of its own
  std::vector<uint8_t> is_moe = {};  // [num_layers]; empty: all have experts. For per_layer only
  Eviction eviction = Eviction::kDecayedFrequency;
  double decay = 1;  // kDecayedFrequency: what a token wanted is worth one token later
};

class Residency {
 public:
  struct Admission {
    SlotId slot = 0;
    std::optional<ExpertId> evicted;  // whose last resident slice, Resident(*evicted) by now, lay there
  };

  explicit Residency(const ResidencyOptions& options);

  const ResidencyOptions& options() const { return options_; }
  ExpertId IdOf(int64_t layer, int64_t expert) const {
    return static_cast<ExpertId>(layer * options_.num_experts + expert);
  }

  // Slices [0, Resident(id)) are in slots.
  int64_t Resident(ExpertId id) const;
  SlotId Slot(ExpertId id, int64_t slice) const;          // of a resident slice
  int64_t num_resident() const { return num_resident_; }  // slices, of all experts

  // What decides who goes first; comparable among the experts of a layer, until AdvanceTokens.
  // kDecayedFrequency only, else 0.
  double Worth(ExpertId id) const;

  // So many tokens have passed; frequencies decay. Once a step, not once a layer.
  void AdvanceTokens(int64_t tokens);
  // `tokens` tokens of this step want the expert, wherever it will be computed.
  void Want(ExpertId id, int64_t tokens);
  // The experts that lose no slice until the next call: those of the layer at hand. Replaces those of the
  // last call.
  void Pin(std::span<const ExpertId> ids);

  // How many of the next slices of these experts (of one layer) Admit would take now, at most; an upper
  // bound.
  int64_t Room(ExpertId id) const;

  // The next slice of the expert, Resident(id), comes in and stays. Takes a free slot or evicts; nullopt if
  // nothing may go: all pinned, kNever, or (kDecayedFrequency) no resident expert is worth less. kLru always
  // admits what is not pinned out.
  std::optional<Admission> Admit(ExpertId id);

 private:
  // Slots that experts compete for: all, or a layer's.
  struct Pool {
    explicit Pool(EvictionQueue experts) : queue(std::move(experts)) {}

    EvictionQueue queue;  // of the experts with resident slices; keys: ids less first_id
    ExpertId first_id = 0;
    std::vector<SlotId> free;  // the next one last
    int64_t unpinned = 0;      // resident slices of experts that are not pinned
  };

  size_t IndexOf(ExpertId id) const;
  size_t PoolOf(ExpertId id) const;
  SlotId& SlotOf(ExpertId id, int64_t slice);
  // Whose last slice makes room for the expert's next one.
  std::optional<ExpertId> Victim(const Pool& pool, ExpertId id) const;

  ResidencyOptions options_;
  int64_t num_resident_ = 0;
  std::vector<int64_t> resident_;  // [experts of all layers]
  std::vector<SlotId> slots_;      // [experts of all layers, num_slices]; those of residents mean something
  std::vector<Pool> pools_;
  std::vector<ExpertId> pinned_;
};

}  // namespace fiddler
