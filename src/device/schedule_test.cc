#include "device/schedule.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace fiddler::emulated {
namespace {

using enum StepKind;

const std::vector<Candidate> kAll = {{.stream = 0, .kind = kCompute, .call = 5},
                                     {.stream = 1, .kind = kEndCopy, .call = 3},
                                     {.stream = 2, .kind = kBeginCopy, .call = 9},
                                     {.stream = 3, .kind = kCompute, .call = 4}};

// The streams that are chosen among kAll, in many draws.
std::set<size_t> Chosen(Schedule::Strategy strategy) {
  std::set<size_t> chosen;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Schedule schedule(seed);
    if (schedule.strategy() == strategy) chosen.insert(schedule.Choose(kAll));
  }
  return chosen;
}

TEST(ScheduleTest, StrategiesPreferWhatTheySay) {
  using enum Schedule::Strategy;
  EXPECT_EQ(Schedule(std::nullopt).Choose(kAll), 1u);
  EXPECT_EQ(Chosen(kCopiesFirst), (std::set<size_t>{1, 2}));
  EXPECT_EQ(Chosen(kCopiesLast), (std::set<size_t>{0, 3}));
  EXPECT_EQ(Chosen(kRandom), (std::set<size_t>{0, 1, 2, 3}));
  EXPECT_EQ(Chosen(kLongCopies), (std::set<size_t>{2}));
  EXPECT_EQ(Chosen(kNewestFirst), (std::set<size_t>{2}));
  EXPECT_EQ(Chosen(kOnlyNeeded), (std::set<size_t>{0, 3}));
}

TEST(ScheduleTest, SeedsInARowHaveEveryStrategyInBothManners) {
  std::set<std::pair<Schedule::Strategy, bool>> seen;
  for (uint64_t seed = 100; seed < 100 + 2 * Schedule::kStrategies; ++seed) {
    const Schedule schedule(seed);
    EXPECT_NE(schedule.strategy(), Schedule::Strategy::kInOrder);
    seen.insert({schedule.strategy(), schedule.eager()});
  }
  EXPECT_EQ(seen.size(), 2 * Schedule::kStrategies);
  EXPECT_FALSE(Schedule(std::nullopt).eager());
}

}  // namespace
}  // namespace fiddler::emulated
