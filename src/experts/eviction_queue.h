// Which of many keys goes first: the one worth least, and among equals the one touched longest ago. What
// CachePolicy and Residency have in common. Worth is the tokens that wanted a key, each worth `decay` times
// as much one token later. Keys that are not members are counted too: one that comes back has not lost what
// it was worth.
//
// A plain value, not thread-safe. Touch, Insert, Erase and pins take O(log members) a key, AdvanceTokens O(1)
// a token (and seldom O(keys)); none allocates.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fiddler {

using CacheKey = int32_t;  // in [0, num_keys)

class EvictionQueue {
 public:
  enum class Worth : uint8_t {
    kNothing,  // only when a key was touched counts: least recently used
    kDecayedTokens,
  };

  // decay: in [2^-32, 1]; 1 never forgets.
  EvictionQueue(Worth worth, int32_t num_keys, double decay);

  // So many tokens have passed; worths decay.
  void AdvanceTokens(int64_t tokens);
  // `tokens` tokens want the key. Member or not.
  void Touch(CacheKey key, int64_t tokens);

  // Members are who may go, unless pinned. A key may be pinned before it is one.
  void Insert(CacheKey key);
  void Erase(CacheKey key);
  bool IsMember(CacheKey key) const { return At(key).member; }

  void Pin(CacheKey key);
  void UnpinAll();
  bool IsPinned(CacheKey key) const { return At(key).pinned; }

  // The unpinned member that goes first, but for `spared`; nullopt if there is none.
  std::optional<CacheKey> First(std::optional<CacheKey> spared = std::nullopt) const;

  // Only for comparison with another key of this queue, before the next AdvanceTokens.
  double WorthOf(CacheKey key) const { return At(key).worth; }

 private:
  static constexpr int32_t kOutside = -1;

  struct Key {
    double worth = 0;          // decayed count, in units of weight_
    int64_t last_touch = 0;    // on clock_
    int32_t place = kOutside;  // in heap_
    bool member = false;
    bool pinned = false;
  };

  Key& At(CacheKey key);
  const Key& At(CacheKey key) const;
  bool GoesBefore(CacheKey a, CacheKey b) const;
  void Put(size_t place, CacheKey key);
  void SiftUp(size_t place);
  void SiftDown(size_t place);
  void Push(CacheKey key);
  void Remove(CacheKey key);

  Worth worth_;
  // Counts are not decayed one by one: a token of now weighs more than one of then, which orders keys alike.
  double growth_;      // 1 / decay
  double weight_ = 1;  // of one token now
  int64_t clock_ = 0;  // touches so far
  std::vector<Key> keys_;
  std::vector<CacheKey> heap_;  // unpinned members, the first to go in front
  std::vector<CacheKey> pinned_;
};

}  // namespace fiddler
