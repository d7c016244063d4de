#include "experts/eviction_queue.h"

#include "base/check.h"

namespace fiddler {
namespace {

constexpr double kMinDecay = 0x1p-32;
// When one token weighs this much, all worths are divided by it. A power of two, so that nothing is rounded;
// what is too small for a double by then was worth 2^-1000 of a token.
constexpr double kMaxWeight = 0x1p400;

}  // namespace

EvictionQueue::EvictionQueue(Worth worth, int32_t num_keys, double decay)
    : worth_(worth), growth_(1 / decay) {
  CHECK(num_keys >= 0, "{} keys", num_keys);
  CHECK(decay >= kMinDecay && decay <= 1, "a decay of {}", decay);
  keys_.resize(static_cast<size_t>(num_keys));
  heap_.reserve(keys_.size());
  pinned_.reserve(keys_.size());
}

void EvictionQueue::AdvanceTokens(int64_t tokens) {
  CHECK(tokens >= 0, "{} tokens", tokens);
  if (worth_ == Worth::kNothing || growth_ == 1) return;
  for (int64_t i = 0; i < tokens; ++i) {
    weight_ *= growth_;
    if (weight_ < kMaxWeight) continue;
    weight_ /= kMaxWeight;
    for (Key& key : keys_) key.worth /= kMaxWeight;
    // Worths that became 0 are ordered by recency from here on.
    for (size_t place = heap_.size() / 2; place-- > 0;) SiftDown(place);
  }
}

void EvictionQueue::Touch(CacheKey key, int64_t tokens) {
  CHECK(tokens >= 1, "{} tokens", tokens);
  Key& touched = At(key);
  touched.last_touch = ++clock_;
  if (worth_ == Worth::kDecayedTokens) touched.worth += weight_ * static_cast<double>(tokens);
  if (touched.place != kOutside) SiftDown(static_cast<size_t>(touched.place));  // it only goes later now
}

void EvictionQueue::Insert(CacheKey key) {
  Key& inserted = At(key);
  if (inserted.member) return;
  inserted.member = true;
  if (!inserted.pinned) Push(key);
}

void EvictionQueue::Erase(CacheKey key) {
  Key& erased = At(key);
  erased.member = false;
  if (erased.place != kOutside) Remove(key);
}

void EvictionQueue::Pin(CacheKey key) {
  Key& pinned = At(key);
  if (pinned.pinned) return;
  pinned.pinned = true;
  pinned_.push_back(key);
  if (pinned.member) Remove(key);
}

void EvictionQueue::UnpinAll() {
  for (const CacheKey key : pinned_) {
    At(key).pinned = false;
    if (At(key).member) Push(key);
  }
  pinned_.clear();
}

std::optional<CacheKey> EvictionQueue::First(std::optional<CacheKey> spared) const {
  if (heap_.empty()) return std::nullopt;
  if (heap_.front() != spared) return heap_.front();
  if (heap_.size() == 1) return std::nullopt;
  return heap_.size() > 2 && GoesBefore(heap_[2], heap_[1]) ? heap_[2] : heap_[1];
}

EvictionQueue::Key& EvictionQueue::At(CacheKey key) {
  CHECK(key >= 0 && static_cast<size_t>(key) < keys_.size(), "key {} of {}", key, keys_.size());
  return keys_[static_cast<size_t>(key)];
}

const EvictionQueue::Key& EvictionQueue::At(CacheKey key) const {
  CHECK(key >= 0 && static_cast<size_t>(key) < keys_.size(), "key {} of {}", key, keys_.size());
  return keys_[static_cast<size_t>(key)];
}

bool EvictionQueue::GoesBefore(CacheKey a, CacheKey b) const {
  const Key& x = keys_[static_cast<size_t>(a)];
  const Key& y = keys_[static_cast<size_t>(b)];
  if (x.worth != y.worth) return x.worth < y.worth;
  return x.last_touch != y.last_touch ? x.last_touch < y.last_touch : a > b;
}

void EvictionQueue::Put(size_t place, CacheKey key) {
  heap_[place] = key;
  keys_[static_cast<size_t>(key)].place = static_cast<int32_t>(place);
}

void EvictionQueue::SiftUp(size_t place) {
  const CacheKey key = heap_[place];
  for (; place > 0 && GoesBefore(key, heap_[(place - 1) / 2]); place = (place - 1) / 2) {
    Put(place, heap_[(place - 1) / 2]);
  }
  Put(place, key);
}

void EvictionQueue::SiftDown(size_t place) {
  const CacheKey key = heap_[place];
  for (size_t child = 2 * place + 1; child < heap_.size(); child = 2 * place + 1) {
    if (child + 1 < heap_.size() && GoesBefore(heap_[child + 1], heap_[child])) ++child;
    if (!GoesBefore(heap_[child], key)) break;
    Put(place, heap_[child]);
    place = child;
  }
  Put(place, key);
}

void EvictionQueue::Push(CacheKey key) {
  heap_.push_back(key);
  SiftUp(heap_.size() - 1);
}

void EvictionQueue::Remove(CacheKey key) {
  const auto place = static_cast<size_t>(At(key).place);
  At(key).place = kOutside;
  const CacheKey last = heap_.back();
  heap_.pop_back();
  if (last == key) return;
  Put(place, last);
  SiftUp(place);
  SiftDown(static_cast<size_t>(At(last).place));
}

}  // namespace fiddler
