// Which of many keys (an expert, a slice of one: whoever owns the pool numbers them) stay in a pool of slots.
// Decides only: no memory is moved, no clock read, so the same object drives the engine's pool, a simulation
// and a test. Three policies in one class, since they differ in one number, what it is worth to keep a key:
//   Lru               nothing, so the key touched longest ago goes;
//   DecayedFrequency  the tokens that wanted it, each worth `decay` times as much one token later, and ties
//                     to the one touched longest ago. Keys outside the pool are counted too: one that comes
//                     back has not lost what it was worth;
//   Static            the most popular keys, chosen once; nothing comes or goes.
// A miss is always admitted (what was fetched is already in a slot) unless every slot is pinned.
//
// A plain value, not thread-safe. Touch and Pin take O(log slots) a key; nothing allocates after
// construction.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "experts/eviction_queue.h"

namespace fiddler {

class CachePolicy {
 public:
  struct Outcome {
    bool hit = false;
    bool resident = false;            // after the touch; false: it must be used without a slot
    std::optional<CacheKey> evicted;  // whose slot the key took
  };

  // Both start with every slot empty.
  static CachePolicy Lru(int32_t num_keys, int32_t num_slots);
  // decay: in [2^-32, 1]; 1 never forgets.
  static CachePolicy DecayedFrequency(int32_t num_keys, int32_t num_slots, double decay);
  // The num_slots keys of the highest popularity [num_keys], ties to the lower key.
  static CachePolicy Static(std::span<const int64_t> popularity, int32_t num_slots);

  // So many tokens have passed; what frequencies are worth decays. Call it once a step, not once a layer.
  void AdvanceTokens(int64_t tokens);

  // The keys that must not be evicted: those the layer at hand needs. Replaces the keys of the last call, so
  // an empty span frees all. A key may be pinned before it is in the pool.
  void Pin(std::span<const CacheKey> keys);

  // `tokens` tokens of this step want the key.
  Outcome Touch(CacheKey key, int64_t tokens = 1);

  bool Resident(CacheKey key) const { return queue_.IsMember(key); }
  int32_t num_resident() const { return num_resident_; }
  int32_t num_slots() const { return num_slots_; }

 private:
  CachePolicy(EvictionQueue queue, int32_t num_slots, bool is_static);

  EvictionQueue queue_;  // of the residents
  int32_t num_slots_;
  int32_t num_resident_ = 0;
  bool is_static_;
};

}  // namespace fiddler
