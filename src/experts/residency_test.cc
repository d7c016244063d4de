#include "experts/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "base/rng.h"

namespace fiddler {
namespace {

// What residency.h says, written down without heaps and with counts decayed one by one. A decay of 1/2 makes
// every number exact, so that ties are the same ties.
class Naive {
 public:
  explicit Naive(const ResidencyOptions& options) : options_(options), experts_(Count()) {}

  void AdvanceTokens(int64_t tokens) {
    if (options_.eviction != Eviction::kDecayedFrequency) return;
    for (; tokens > 0; --tokens)
      for (Expert& expert : experts_) expert.worth *= options_.decay;
  }

  void Want(ExpertId id, int64_t tokens) {
    if (options_.eviction == Eviction::kDecayedFrequency)
      experts_[static_cast<size_t>(id)].worth += static_cast<double>(tokens);
    experts_[static_cast<size_t>(id)].last = ++clock_;
  }

  void Pin(const std::vector<ExpertId>& ids) { pinned_ = {ids.begin(), ids.end()}; }

  struct Outcome {
    bool admitted = false;
    std::optional<ExpertId> evicted;
  };

  Outcome Admit(ExpertId id) {
    Expert& candidate = experts_[static_cast<size_t>(id)];
    if (Used(id) < Slots()) {
      ++candidate.resident;
      return {.admitted = true, .evicted = std::nullopt};
    }
    const std::optional<ExpertId> victim = Victim(id);
    if (!victim) return {};
    --experts_[static_cast<size_t>(*victim)].resident;
    ++candidate.resident;
    return {.admitted = true, .evicted = victim};
  }

  int64_t Resident(ExpertId id) const { return experts_[static_cast<size_t>(id)].resident; }

  int64_t Room(ExpertId id) const {
    int64_t room = Slots() - Used(id);
    if (Victim(id)) {
      for (ExpertId other = 0; other < static_cast<ExpertId>(Count()); ++other)
        if (other != id && Compete(id, other) && !pinned_.contains(other)) room += Resident(other);
    }
    return std::min(room, options_.num_slices - Resident(id));
  }

 private:
  struct Expert {
    double worth = 0;
    int64_t last = 0;
    int64_t resident = 0;
  };

  size_t Count() const { return static_cast<size_t>(options_.num_layers * options_.num_experts); }
  int64_t Slots() const {
    return options_.per_layer ? options_.num_slots / options_.num_layers : options_.num_slots;
  }
  bool Compete(ExpertId a, ExpertId b) const {
    return !options_.per_layer || a / options_.num_experts == b / options_.num_experts;
  }
  int64_t Used(ExpertId id) const {
    int64_t used = 0;
    for (ExpertId other = 0; other < static_cast<ExpertId>(Count()); ++other)
      if (Compete(id, other)) used += Resident(other);
    return used;
  }
  std::optional<ExpertId> Victim(ExpertId id) const {
    if (options_.eviction == Eviction::kNever) return std::nullopt;
    std::optional<ExpertId> victim;
    const auto rank = [&](ExpertId x) {
      const Expert& expert = experts_[static_cast<size_t>(x)];
      return std::tuple(expert.worth, expert.last, -x);
    };
    for (ExpertId other = 0; other < static_cast<ExpertId>(Count()); ++other) {
      if (other == id || !Compete(id, other) || Resident(other) == 0 || pinned_.contains(other)) continue;
      if (!victim || rank(other) < rank(*victim)) victim = other;
    }
    if (!victim || options_.eviction == Eviction::kLru) return victim;
    const bool refused =
        experts_[static_cast<size_t>(*victim)].worth >= experts_[static_cast<size_t>(id)].worth;
    return refused ? std::nullopt : victim;
  }

  ResidencyOptions options_;
  std::vector<Expert> experts_;
  std::set<ExpertId> pinned_;
  int64_t clock_ = 0;
};

// Every slot holds one slice at most, and every resident slice has the slot it was admitted to until it goes.
class SlotLedger {
 public:
  explicit SlotLedger(const Residency& residency)
      : residency_(residency),
        slots_(static_cast<size_t>(residency.options().num_layers * residency.options().num_experts)) {}

  void Admitted(ExpertId id, const Residency::Admission& admission) {
    if (admission.evicted) {
      std::vector<SlotId>& from = slots_[static_cast<size_t>(*admission.evicted)];
      ASSERT_FALSE(from.empty());
      EXPECT_EQ(from.back(), admission.slot) << "not the slot of the last slice";
      from.pop_back();
    }
    slots_[static_cast<size_t>(id)].push_back(admission.slot);
  }

  void Check() const {
    std::set<SlotId> seen;
    int64_t residents = 0;
    const ResidencyOptions& options = residency_.options();
    const int64_t layer_slots = options.num_slots / options.num_layers;
    for (size_t id = 0; id < slots_.size(); ++id) {
      const auto expert = static_cast<ExpertId>(id);
      ASSERT_EQ(residency_.Resident(expert), std::ssize(slots_[id])) << "expert " << id;
      residents += std::ssize(slots_[id]);
      for (int64_t slice = 0; slice < std::ssize(slots_[id]); ++slice) {
        const SlotId slot = residency_.Slot(expert, slice);
        ASSERT_EQ(slot, slots_[id][static_cast<size_t>(slice)]) << "expert " << id << ", slice " << slice;
        ASSERT_TRUE(slot >= 0 && slot < options.num_slots) << slot;
        ASSERT_TRUE(seen.insert(slot).second) << "slot " << slot << " is shared";
        if (options.per_layer) {
          ASSERT_EQ(slot / layer_slots, expert / options.num_experts) << "another layer's slot";
        }
      }
    }
    ASSERT_EQ(residency_.num_resident(), residents);
  }

 private:
  const Residency& residency_;
  std::vector<std::vector<SlotId>> slots_;  // of each expert, by slice
};

void ExpectLikeNaive(const ResidencyOptions& options, uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "eviction " << static_cast<int>(options.eviction) << ", "
                                  << options.num_slots << " slots, seed " << seed);
  Rng rng(seed);
  Residency residency(options);
  Naive naive(options);
  SlotLedger ledger(residency);
  std::vector<ExpertId> pinned;
  for (int step = 0; step < 60; ++step) {
    const auto tokens = static_cast<int64_t>(rng.NextBits() % 3);
    residency.AdvanceTokens(tokens);
    naive.AdvanceTokens(tokens);
    for (int64_t layer = 0; layer < options.num_layers; ++layer) {
      pinned.clear();
      for (int64_t expert = 0; expert < options.num_experts; ++expert)
        if (rng.NextUnit() < 0.4) pinned.push_back(residency.IdOf(layer, expert));
      residency.Pin(pinned);
      naive.Pin(pinned);
      for (int i = 0; i < 6; ++i) {
        // Of any layer, pinned or not: a placement admits what nobody wants yet.
        const auto id = static_cast<ExpertId>(
            rng.NextBits() % static_cast<uint64_t>(options.num_layers * options.num_experts));
        if (rng.NextUnit() < 0.7) {
          const auto wanted = 1 + static_cast<int64_t>(rng.NextBits() % 3);
          residency.Want(id, wanted);
          naive.Want(id, wanted);
        }
        const int64_t before = residency.Resident(id);
        if (before == options.num_slices) {
          ASSERT_EQ(residency.Room(id), 0);
          continue;
        }
        const int64_t room = residency.Room(id);
        ASSERT_EQ(room, naive.Room(id)) << "step " << step << ", expert " << id;
        const std::optional<Residency::Admission> got = residency.Admit(id);
        const Naive::Outcome expected = naive.Admit(id);
        ASSERT_EQ(got.has_value(), expected.admitted) << "step " << step << ", expert " << id;
        if (!got) continue;
        ASSERT_GE(room, 1);
        ASSERT_EQ(got->evicted, expected.evicted) << "step " << step << ", expert " << id;
        ASSERT_EQ(residency.Resident(id), before + 1);
        if (got->evicted) {
          ASSERT_EQ(std::count(pinned.begin(), pinned.end(), *got->evicted), 0);
        }
        ledger.Admitted(id, *got);
      }
      ASSERT_NO_FATAL_FAILURE(ledger.Check());
      for (ExpertId id = 0; id < static_cast<ExpertId>(options.num_layers * options.num_experts); ++id)
        ASSERT_EQ(residency.Resident(id), naive.Resident(id));
    }
  }
}

TEST(ResidencyTest, DoesWhatTheNaiveModelDoes) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    for (const Eviction eviction : {Eviction::kNever, Eviction::kLru, Eviction::kDecayedFrequency}) {
      for (const bool per_layer : {false, true}) {
        for (const int64_t slots : {0, 3, 10, 17, 200}) {
          ExpectLikeNaive({.num_layers = 3,
                           .num_experts = 5,
                           .num_slices = 4,
                           .num_slots = slots,
                           .per_layer = per_layer,
                           .eviction = eviction,
                           .decay = 0.5},
                          seed);
        }
      }
    }
  }
}

// Admits all that there is room for, one by one.
int64_t AdmitAll(Residency& residency, ExpertId id) {
  int64_t admitted = 0;
  while (residency.Resident(id) < residency.options().num_slices && residency.Admit(id)) ++admitted;
  return admitted;
}

TEST(ResidencyTest, RoomIsNeverTooLittle) {
  Rng rng(1);
  for (int round = 0; round < 300; ++round) {
    const Eviction eviction = static_cast<Eviction>(round % 3);
    Residency residency({.num_layers = 2,
                         .num_experts = 6,
                         .num_slices = 4,
                         .num_slots = 14,
                         .per_layer = round % 2 == 0,
                         .eviction = eviction,
                         .decay = 0.9});
    for (int i = 0; i < 40; ++i) {
      const auto id = static_cast<ExpertId>(rng.NextBits() % 12);
      residency.Pin(std::vector<ExpertId>{static_cast<ExpertId>(rng.NextBits() % 12), id});
      residency.Want(id, 1 + static_cast<int64_t>(rng.NextBits() % 4));
      residency.AdvanceTokens(1);
      const int64_t room = residency.Room(id);
      EXPECT_GE(room, AdmitAll(residency, id));
    }
  }
}

// A prompt that goes through all layers must not throw out what its next chunk needs.
TEST(ResidencyTest, AScanOfEqualsReplacesNothing) {
  Residency residency({.num_layers = 8,
                       .num_experts = 4,
                       .num_slices = 2,
                       .num_slots = 16,
                       .eviction = Eviction::kDecayedFrequency,
                       .decay = 0.99});
  const auto chunk = [&] {
    int64_t admitted = 0;
    for (ExpertId id = 0; id < 32; ++id) {
      residency.Pin(std::vector<ExpertId>{id});
      residency.Want(id, 100);
      admitted += AdmitAll(residency, id);
    }
    residency.AdvanceTokens(400);
    return admitted;
  };
  EXPECT_EQ(chunk(), 16);
  EXPECT_EQ(chunk(), 0);
  for (ExpertId id = 0; id < 32; ++id) EXPECT_EQ(residency.Resident(id), id < 8 ? 2 : 0) << id;
}

TEST(ResidencyTest, WhatIsWantedMoreTakesOverSliceBySlice) {
  Residency residency({.num_layers = 1,
                       .num_experts = 3,
                       .num_slices = 2,
                       .num_slots = 4,
                       .eviction = Eviction::kDecayedFrequency,
                       .decay = 1});
  AdmitAll(residency, 0);
  AdmitAll(residency, 1);
  residency.Want(0, 3);
  residency.Want(1, 2);
  residency.Want(2, 2);
  EXPECT_EQ(residency.Admit(2), std::nullopt);  // worth no more than 1
  residency.Want(2, 1);
  EXPECT_EQ(residency.Room(2), 2);
  const std::optional<Residency::Admission> admission = residency.Admit(2);
  ASSERT_TRUE(admission);
  EXPECT_EQ(admission->evicted, 1);
  EXPECT_EQ(residency.Resident(1), 1);
  residency.Pin(std::vector<ExpertId>{1, 2});
  EXPECT_EQ(residency.Admit(2), std::nullopt);  // 0 is worth as much
}

TEST(ResidencyDeathTest, WhatCannotBeIsABug) {
  Residency residency({.num_layers = 1, .num_experts = 2, .num_slices = 1, .num_slots = 2});
  EXPECT_TRUE(residency.Admit(0));
  EXPECT_DEATH(residency.Admit(0), "all 1 slices of expert 0 are resident");
  EXPECT_DEATH(residency.Slot(1, 0), "slice 0 of expert 1");
  EXPECT_DEATH(residency.Resident(2), "expert 2 of 2");
}

}  // namespace
}  // namespace fiddler
