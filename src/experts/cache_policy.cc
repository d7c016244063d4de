#include "experts/cache_policy.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace fiddler {

CachePolicy CachePolicy::Lru(int32_t num_keys, int32_t num_slots) {
  return {EvictionQueue(EvictionQueue::Worth::kNothing, num_keys, 1), num_slots, false};
}

CachePolicy CachePolicy::DecayedFrequency(int32_t num_keys, int32_t num_slots, double decay) {
  return {EvictionQueue(EvictionQueue::Worth::kDecayedTokens, num_keys, decay), num_slots, false};
}

CachePolicy CachePolicy::Static(std::span<const int64_t> popularity, int32_t num_slots) {
  const auto num_keys = static_cast<int32_t>(popularity.size());
  CachePolicy policy(EvictionQueue(EvictionQueue::Worth::kNothing, num_keys, 1), num_slots, true);
  std::vector<CacheKey> order(popularity.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](CacheKey a, CacheKey b) {
    return popularity[static_cast<size_t>(a)] > popularity[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(num_slots)));
  for (const CacheKey key : order) policy.queue_.Insert(key);
  policy.num_resident_ = static_cast<int32_t>(order.size());
  return policy;
}

CachePolicy::CachePolicy(EvictionQueue queue, int32_t num_slots, bool is_static)
    : queue_(std::move(queue)), num_slots_(num_slots), is_static_(is_static) {
  CHECK(num_slots >= 0, "{} slots", num_slots);
}

void CachePolicy::AdvanceTokens(int64_t tokens) { queue_.AdvanceTokens(tokens); }

void CachePolicy::Pin(std::span<const CacheKey> keys) {
  queue_.UnpinAll();
  for (const CacheKey key : keys) queue_.Pin(key);
}

CachePolicy::Outcome CachePolicy::Touch(CacheKey key, int64_t tokens) {
  queue_.Touch(key, tokens);
  if (queue_.IsMember(key)) return {.hit = true, .resident = true, .evicted = std::nullopt};
  Outcome outcome;
  if (is_static_) return outcome;
  if (num_resident_ == num_slots_) {
    outcome.evicted = queue_.First();
    if (!outcome.evicted) return outcome;
    queue_.Erase(*outcome.evicted);
    --num_resident_;
  }
  outcome.resident = true;
  ++num_resident_;
  queue_.Insert(key);
  return outcome;
}

}  // namespace fiddler
