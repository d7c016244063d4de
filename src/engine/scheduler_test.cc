#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"

namespace fiddler {
namespace {

// A world of random requests around a Scheduler. It plays the engine's part and checks every promise of
// scheduler.h after every step.
class Simulation {
 public:
  Simulation(uint64_t seed, int32_t blocks, const Scheduler::Limits& limits)
      : rng_(seed), limits_(limits), pool_(blocks), scheduler_(pool_, limits) {}

  void Arrive(int64_t prompt_tokens, int64_t max_tokens) {
    Request request = {.prompt = std::vector<int32_t>(static_cast<size_t>(prompt_tokens), 0),
                       .max_tokens = max_tokens};
    auto sequence = std::make_unique<Sequence>(next_id_, std::move(request), 8);
    alive_[next_id_++] = sequence.get();
    scheduler_.Add(std::move(sequence));
  }

  void Cancel(SequenceId id) {
    EXPECT_EQ(scheduler_.Remove(id), alive_.erase(id) == 1);
    EXPECT_FALSE(scheduler_.Remove(id));
  }

  void CancelAny() {
    if (alive_.empty()) return;
    Cancel(std::next(alive_.begin(), static_cast<std::ptrdiff_t>(Below(alive_.size())))->first);
  }

  // Schedules, checks, and moves every scheduled sequence on.
  void Step() {
    const std::span<const ScheduledWork> work = scheduler_.Schedule();
    CheckBlocks();
    CheckAdmission();
    CheckWork(work);
    std::vector<SequenceId> finished;
    for (const auto& [sequence, tokens] : work) {
      sequence->num_cached += tokens;
      if (sequence->num_cached < sequence->length()) continue;
      sequence->tokens.push_back(0);
      if (sequence->num_generated() == sequence->request.max_tokens) finished.push_back(sequence->id);
    }
    for (SequenceId id : finished) Cancel(id);
    EXPECT_TRUE(alive_.empty() || !work.empty()) << "nothing moves";
  }

  // Everybody who is left finishes, and everything is given back.
  void RunToTheEnd() {
    for (int step = 0; step < 10'000 && !scheduler_.idle(); ++step) Step();
    EXPECT_TRUE(scheduler_.idle());
    EXPECT_TRUE(alive_.empty());
    EXPECT_EQ(pool_.num_free(), pool_.capacity());
  }

  size_t Below(size_t limit) { return static_cast<size_t>(rng_.NextBits() % limit); }
  size_t num_alive() const { return alive_.size(); }
  size_t most_running() const { return most_running_; }

 private:
  static bool IsRunning(const Sequence& sequence) { return !sequence.block_table.empty(); }

  // No block is lost, none has two owners, and everyone who runs has room for all it may become.
  void CheckBlocks() {
    std::set<BlockId> owned;
    size_t count = 0;
    for (const auto& [id, sequence] : alive_) {
      owned.insert(sequence->block_table.begin(), sequence->block_table.end());
      count += sequence->block_table.size();
      if (IsRunning(*sequence)) {
        EXPECT_EQ(static_cast<int64_t>(sequence->block_table.size()),
                  KvCache::BlocksFor(sequence->max_length()));
      }
    }
    EXPECT_EQ(owned.size(), count) << "a block in two sequences";
    EXPECT_EQ(static_cast<int32_t>(count) + pool_.num_free(), pool_.capacity()) << "a block lost";
  }

  // First come, first served, and nobody waits who could run.
  void CheckAdmission() {
    int64_t running = 0;
    const Sequence* first_waiting = nullptr;
    for (const auto& [id, sequence] : alive_) {  // in order of arrival
      if (IsRunning(*sequence)) {
        EXPECT_EQ(first_waiting, nullptr) << id << " overtook";
        ++running;
      } else if (first_waiting == nullptr) {
        first_waiting = sequence;
      }
    }
    EXPECT_LE(running, limits_.max_sequences);
    if (first_waiting != nullptr && running < limits_.max_sequences) {
      EXPECT_GT(KvCache::BlocksFor(first_waiting->max_length()), pool_.num_free());
    }
    most_running_ = std::max(most_running_, static_cast<size_t>(running));
  }

  // Everyone who generates gets one token; prompts share the rest, oldest first, and nothing is left over
  // that somebody could use.
  void CheckWork(std::span<const ScheduledWork> work) {
    std::map<SequenceId, int64_t> tokens_of;
    int64_t total = 0;
    for (const auto& [sequence, tokens] : work) {
      EXPECT_GT(tokens, 0);
      EXPECT_TRUE(IsRunning(*sequence));
      EXPECT_TRUE(tokens_of.emplace(sequence->id, tokens).second) << "twice in one step";
      total += tokens;
    }
    EXPECT_LE(total, limits_.batch_tokens);
    bool is_full = false;
    for (const auto& [id, sequence] : alive_) {
      const int64_t left = sequence->length() - sequence->num_cached;
      if (!IsRunning(*sequence)) {
        EXPECT_EQ(tokens_of[id], 0);
      } else if (left == 1) {
        EXPECT_EQ(tokens_of[id], 1) << id << " generates";
      } else {
        EXPECT_LE(tokens_of[id], left);
        if (is_full) {
          EXPECT_EQ(tokens_of[id], 0) << id << " before an older prompt";
        }
        is_full |= tokens_of[id] < left;
      }
    }
    if (is_full) {
      EXPECT_EQ(total, limits_.batch_tokens);
    }
  }

  Rng rng_;
  const Scheduler::Limits limits_;
  BlockPool pool_;
  Scheduler scheduler_;
  SequenceId next_id_ = 0;
  std::map<SequenceId, const Sequence*> alive_;  // waiting and running, owned by scheduler_
  size_t most_running_ = 0;
};

TEST(SchedulerTest, RandomArrivalsAndCancellations) {
  size_t most_running = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Rng rng(seed + 1000);
    const auto max_sequences = static_cast<int64_t>(1 + rng.NextBits() % 6);
    const auto batch_tokens = max_sequences + static_cast<int64_t>(rng.NextBits() % 40);
    const auto blocks = static_cast<int32_t>(8 + rng.NextBits() % 12);
    Simulation simulation(seed, blocks, {.batch_tokens = batch_tokens, .max_sequences = max_sequences});
    const auto arrive = [&] {  // at most 8 blocks: what could never run is refused before (engine_test.cc)
      const auto prompt_tokens = static_cast<int64_t>(1 + simulation.Below(200));
      const auto max_tokens = static_cast<int64_t>(1 + simulation.Below(8 * KvCache::kBlockTokens - 200));
      simulation.Arrive(prompt_tokens, max_tokens);
    };
    for (int step = 0; step < 300; ++step) {
      while (simulation.num_alive() < 12 && simulation.Below(4) == 0) arrive();
      if (simulation.Below(10) == 0) simulation.CancelAny();
      simulation.Step();
    }
    simulation.RunToTheEnd();
    most_running = std::max(most_running, simulation.most_running());
  }
  EXPECT_GE(most_running, 5);  // the limits were reached
}

TEST(SchedulerTest, AFullPoolMakesTheNextWaitAndThoseBehindIt) {
  Simulation simulation(1, 4, {.batch_tokens = 64, .max_sequences = 8});
  simulation.Arrive(3 * KvCache::kBlockTokens, 2);  // takes all four blocks
  simulation.Arrive(40, 1);                         // two blocks
  simulation.Arrive(1, 1);                          // would fit sooner, but came later
  simulation.RunToTheEnd();                         // CheckAdmission holds in every step
}

TEST(SchedulerTest, CancellingTheOneInTheWayLetsTheNextRun) {
  Simulation simulation(1, 4, {.batch_tokens = 8, .max_sequences = 2});
  simulation.Arrive(100, 28);
  simulation.Arrive(100, 28);
  simulation.Step();
  EXPECT_EQ(simulation.most_running(), 1);
  simulation.Cancel(0);
  simulation.RunToTheEnd();
}

TEST(SchedulerTest, AnIdleSchedulerHasNoWork) {
  BlockPool pool(1);
  Scheduler scheduler(pool, {.batch_tokens = 1, .max_sequences = 1});
  EXPECT_TRUE(scheduler.idle());
  EXPECT_TRUE(scheduler.Schedule().empty());
  EXPECT_FALSE(scheduler.Remove(0));
}

}  // namespace
}  // namespace fiddler
