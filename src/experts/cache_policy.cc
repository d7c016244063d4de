#include "experts/cache_policy.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace fiddler {
namespace {

constexpr double kMinDecay = 0x1p-32;
// When one token weighs this much, all worths are divided by it. A power of two, so that nothing is rounded;
// what is too small for a double by then was worth 2^-1000 of a token.
constexpr double kMaxWeight = 0x1p400;

}  // namespace

CachePolicy CachePolicy::Lru(int32_t num_keys, int32_t num_slots) {
  return {Kind::kLru, num_keys, num_slots, 1};
}

CachePolicy CachePolicy::DecayedFrequency(int32_t num_keys, int32_t num_slots, double decay) {
  return {Kind::kDecayedFrequency, num_keys, num_slots, decay};
}

CachePolicy CachePolicy::Static(std::span<const int64_t> popularity, int32_t num_slots) {
  CachePolicy policy(Kind::kStatic, static_cast<int32_t>(popularity.size()), num_slots, 1);
  std::vector<CacheKey> order(popularity.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](CacheKey a, CacheKey b) {
    return popularity[static_cast<size_t>(a)] > popularity[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(num_slots)));
  for (const CacheKey key : order) policy.At(key).resident = true;
  policy.num_resident_ = static_cast<int32_t>(order.size());
  return policy;
}

CachePolicy::CachePolicy(Kind kind, int32_t num_keys, int32_t num_slots, double decay)
    : kind_(kind), num_slots_(num_slots), growth_(1 / decay) {
  CHECK(num_keys >= 0 && num_slots >= 0, "{} keys, {} slots", num_keys, num_slots);
  CHECK(decay >= kMinDecay && decay <= 1, "a decay of {}", decay);
  keys_.resize(static_cast<size_t>(num_keys));
  heap_.reserve(std::min(keys_.size(), static_cast<size_t>(num_slots)));
  pinned_.reserve(keys_.size());
}

void CachePolicy::AdvanceTokens(int64_t tokens) {
  CHECK(tokens >= 0, "{} tokens", tokens);
  if (kind_ != Kind::kDecayedFrequency || growth_ == 1) return;
  for (int64_t i = 0; i < tokens; ++i) {
    weight_ *= growth_;
    if (weight_ < kMaxWeight) continue;
    weight_ /= kMaxWeight;
    for (Key& key : keys_) key.worth /= kMaxWeight;
    // Worths that became 0 are ordered by recency from here on.
    for (size_t place = heap_.size() / 2; place-- > 0;) SiftDown(place);
  }
}

void CachePolicy::Pin(std::span<const CacheKey> keys) {
  for (const CacheKey key : pinned_) {
    At(key).pinned = false;
    if (At(key).resident) Push(key);
  }
  pinned_.clear();
  for (const CacheKey key : keys) {
    if (At(key).pinned) continue;
    At(key).pinned = true;
    pinned_.push_back(key);
    if (At(key).resident) Remove(key);
  }
}

CachePolicy::Outcome CachePolicy::Touch(CacheKey key, int64_t tokens) {
  CHECK(tokens >= 1, "{} tokens", tokens);
  Key& touched = At(key);
  touched.last_touch = ++clock_;
  if (kind_ == Kind::kDecayedFrequency) touched.worth += weight_ * static_cast<double>(tokens);
  if (touched.resident) {
    if (touched.place != kOutside) SiftDown(static_cast<size_t>(touched.place));  // worth only grows
    return {.hit = true, .resident = true, .evicted = std::nullopt};
  }
  Outcome outcome;
  if (kind_ == Kind::kStatic) return outcome;
  if (num_resident_ == num_slots_) {
    if (heap_.empty()) return outcome;
    outcome.evicted = heap_.front();
    Remove(heap_.front());
    At(*outcome.evicted).resident = false;
    --num_resident_;
  }
  touched.resident = outcome.resident = true;
  ++num_resident_;
  if (!touched.pinned) Push(key);
  return outcome;
}

CachePolicy::Key& CachePolicy::At(CacheKey key) {
  CHECK(key >= 0 && static_cast<size_t>(key) < keys_.size(), "key {} of {}", key, keys_.size());
  return keys_[static_cast<size_t>(key)];
}

bool CachePolicy::GoesBefore(CacheKey a, CacheKey b) const {
  const Key& x = keys_[static_cast<size_t>(a)];
  const Key& y = keys_[static_cast<size_t>(b)];
  return x.worth != y.worth ? x.worth < y.worth : x.last_touch < y.last_touch;
}

void CachePolicy::Put(size_t place, CacheKey key) {
  heap_[place] = key;
  At(key).place = static_cast<int32_t>(place);
}

void CachePolicy::SiftUp(size_t place) {
  const CacheKey key = heap_[place];
  for (; place > 0 && GoesBefore(key, heap_[(place - 1) / 2]); place = (place - 1) / 2) {
    Put(place, heap_[(place - 1) / 2]);
  }
  Put(place, key);
}

void CachePolicy::SiftDown(size_t place) {
  const CacheKey key = heap_[place];
  for (size_t child = 2 * place + 1; child < heap_.size(); child = 2 * place + 1) {
    if (child + 1 < heap_.size() && GoesBefore(heap_[child + 1], heap_[child])) ++child;
    if (!GoesBefore(heap_[child], key)) break;
    Put(place, heap_[child]);
    place = child;
  }
  Put(place, key);
}

void CachePolicy::Push(CacheKey key) {
  if (kind_ == Kind::kStatic) return;  // nothing is ever evicted
  heap_.push_back(key);
  SiftUp(heap_.size() - 1);
}

void CachePolicy::Remove(CacheKey key) {
  if (kind_ == Kind::kStatic) return;
  const size_t place = static_cast<size_t>(At(key).place);
  At(key).place = kOutside;
  const CacheKey last = heap_.back();
  heap_.pop_back();
  if (last == key) return;
  Put(place, last);
  SiftUp(place);
  SiftDown(static_cast<size_t>(At(last).place));
}

}  // namespace fiddler
