#include "experts/cache_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"

namespace fiddler {
namespace {

// What cache_policy.h says, written down without a heap and with counts decayed one by one. A decay of 1/2
// makes every number exact, so that ties are the same ties.
class Oracle {
 public:
  Oracle(size_t num_slots, double decay) : num_slots_(num_slots), decay_(decay) {}

  void AdvanceTokens(int64_t tokens) {
    for (; tokens > 0; --tokens) {
      for (auto& [key, count] : counts_) count *= decay_;
    }
  }

  CachePolicy::Outcome Touch(CacheKey key, int64_t tokens, const std::set<CacheKey>& pinned) {
    counts_[key] += static_cast<double>(tokens);
    last_touch_[key] = ++clock_;
    if (residents_.contains(key)) return {.hit = true, .resident = true, .evicted = std::nullopt};
    CachePolicy::Outcome outcome;
    if (residents_.size() == num_slots_) {
      for (const CacheKey resident : residents_) {
        if (!pinned.contains(resident) && (!outcome.evicted || Rank(resident) < Rank(*outcome.evicted))) {
          outcome.evicted = resident;
        }
      }
      if (!outcome.evicted) return outcome;
      residents_.erase(*outcome.evicted);
    }
    residents_.insert(key);
    outcome.resident = true;
    return outcome;
  }

  bool Resident(CacheKey key) const { return residents_.contains(key); }

 private:
  std::pair<double, int64_t> Rank(CacheKey key) const { return {counts_.at(key), last_touch_.at(key)}; }

  size_t num_slots_;
  double decay_;
  int64_t clock_ = 0;
  std::map<CacheKey, double> counts_;
  std::map<CacheKey, int64_t> last_touch_;
  std::set<CacheKey> residents_;
};

CacheKey RandomKey(Rng& rng, int32_t num_keys) {
  const double unit = rng.NextUnit();
  return static_cast<CacheKey>(unit * unit * num_keys);  // low keys are wanted more often
}

// Random touches, pins and tokens. Not `counts`: nothing is worth anything to the oracle, which makes it LRU.
void ExpectLikeOracle(CachePolicy policy, Oracle oracle, bool counts, uint64_t seed, int32_t num_keys) {
  Rng rng(seed);
  std::set<CacheKey> pinned;
  for (int touch = 0; touch < 300; ++touch) {
    if (rng.NextUnit() < 0.3) {
      const auto tokens = static_cast<int64_t>(rng.NextUnit() * 3);
      policy.AdvanceTokens(tokens);
      oracle.AdvanceTokens(tokens);
      std::vector<CacheKey> keys;
      for (int i = static_cast<int>(rng.NextUnit() * 5); i > 0; --i) keys.push_back(RandomKey(rng, num_keys));
      policy.Pin(keys);
      pinned = std::set<CacheKey>(keys.begin(), keys.end());
    }
    const CacheKey key = RandomKey(rng, num_keys);
    const int64_t tokens = counts ? 1 + static_cast<int64_t>(rng.NextUnit() * 2) : 1;
    const CachePolicy::Outcome got = policy.Touch(key, tokens);
    const CachePolicy::Outcome expected = oracle.Touch(key, counts ? tokens : 0, pinned);
    ASSERT_EQ(got.hit, expected.hit) << "seed " << seed << ", touch " << touch;
    ASSERT_EQ(got.resident, expected.resident) << "seed " << seed << ", touch " << touch;
    ASSERT_EQ(got.evicted, expected.evicted) << "seed " << seed << ", touch " << touch;
    ASSERT_FALSE(got.evicted && pinned.contains(*got.evicted));
    int32_t residents = 0;
    for (CacheKey k = 0; k < num_keys; ++k) {
      ASSERT_EQ(policy.Resident(k), oracle.Resident(k)) << "seed " << seed << ", touch " << touch;
      residents += policy.Resident(k) ? 1 : 0;
    }
    ASSERT_EQ(policy.num_resident(), residents);
  }
}

TEST(CachePolicyTest, LruDoesWhatTheOracleDoes) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (const int32_t slots : {0, 1, 2, 5, 8, 12}) {
      ExpectLikeOracle(CachePolicy::Lru(12, slots), Oracle(static_cast<size_t>(slots), 1), false, seed, 12);
    }
  }
}

TEST(CachePolicyTest, DecayedFrequencyDoesWhatTheOracleDoes) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (const int32_t slots : {0, 1, 2, 5, 8, 12}) {
      for (const double decay : {1.0, 0.5}) {
        ExpectLikeOracle(CachePolicy::DecayedFrequency(12, slots, decay),
                         Oracle(static_cast<size_t>(slots), decay), true, seed, 12);
      }
    }
  }
}

// Far more tokens than a double has exponents: what a token weighs is scaled back many times.
TEST(CachePolicyTest, CountsDecayForever) {
  CachePolicy policy = CachePolicy::DecayedFrequency(3, 2, 0.5);
  for (int round = 0; round < 50; ++round) {
    policy.Pin({});
    policy.Touch(0, 5);
    policy.Touch(1, 4);
    const CachePolicy::Outcome outcome = policy.Touch(2, 100);
    EXPECT_EQ(outcome.evicted, 1);  // 4 of now and what is left of before are less than 5
    policy.AdvanceTokens(round * 101);
    policy.Touch(1, 1);  // takes the slot of 0 or 2, whichever is worth less
    policy.AdvanceTokens(2000);
    policy.Touch(2);
    policy.Touch(0);
    EXPECT_TRUE(policy.Resident(0) && policy.Resident(2)) << round;  // after 2000 tokens nothing old counts
  }
}

TEST(CachePolicyTest, AForgottenKeyIsEvictedByRecency) {
  CachePolicy policy = CachePolicy::DecayedFrequency(4, 3, 0.5);
  policy.Touch(0, 1'000'000);
  policy.Touch(1);
  policy.Touch(2);
  policy.AdvanceTokens(10'000);  // every count is 0 to a double, whatever it was
  policy.AdvanceTokens(10'000);
  EXPECT_EQ(policy.Touch(3).evicted, 0);
}

TEST(CachePolicyTest, DecayDecidesBetweenOftenAndLately) {
  for (const double decay : {0.9, 0.2}) {
    CachePolicy policy = CachePolicy::DecayedFrequency(3, 2, decay);
    policy.Touch(0, 3);
    policy.AdvanceTokens(5);
    policy.Touch(1);
    EXPECT_EQ(policy.Touch(2).evicted, decay == 0.9 ? 1 : 0);  // 3 * 0.9^5 = 1.8, 3 * 0.2^5 = 0.001
  }
}

TEST(CachePolicyTest, StaticKeepsTheMostPopular) {
  const std::vector<int64_t> popularity = {3, 9, 4, 9, 4};
  CachePolicy policy = CachePolicy::Static(popularity, 3);
  EXPECT_EQ(policy.num_resident(), 3);
  for (int round = 0; round < 3; ++round) {
    policy.AdvanceTokens(1);
    policy.Pin(std::vector<CacheKey>{0, 1});
    for (CacheKey key = 0; key < 5; ++key) {
      const CachePolicy::Outcome outcome = policy.Touch(key);
      const bool expected = key == 1 || key == 2 || key == 3;
      EXPECT_EQ(outcome.hit, expected) << key;
      EXPECT_EQ(outcome.resident, expected) << key;
      EXPECT_EQ(outcome.evicted, std::nullopt) << key;
    }
  }
  EXPECT_EQ(CachePolicy::Static(popularity, 9).num_resident(), 5);
}

TEST(CachePolicyTest, NothingIsAdmittedWhenAllIsPinned) {
  CachePolicy policy = CachePolicy::Lru(4, 2);
  policy.Touch(0);
  policy.Touch(1);
  policy.Pin(std::vector<CacheKey>{0, 1, 2, 0});
  EXPECT_FALSE(policy.Touch(2).resident);
  policy.Pin(std::vector<CacheKey>{2, 1});
  EXPECT_EQ(policy.Touch(2).evicted, 0);
  EXPECT_FALSE(policy.Touch(3).resident);
}

TEST(CachePolicyDeathTest, KeysAndDecaysThatCannotBeAreBugs) {
  CachePolicy policy = CachePolicy::Lru(4, 2);
  EXPECT_DEATH(policy.Touch(4), "key 4 of 4");
  EXPECT_DEATH(policy.Touch(-1), "key -1 of 4");
  EXPECT_DEATH(policy.Touch(1, 0), "0 tokens");
  EXPECT_DEATH(CachePolicy::DecayedFrequency(4, 2, 0), "a decay of 0");
  EXPECT_DEATH(CachePolicy::DecayedFrequency(4, 2, 1.5), "a decay of 1.5");
}

}  // namespace
}  // namespace fiddler
