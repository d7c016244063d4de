#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>

namespace fiddler {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam(), DiscoverTopology()};
};

TEST_P(ThreadPoolTest, RunReachesEveryWorkerOnce) {
  std::vector<int> calls(static_cast<size_t>(pool_.num_threads()));
  for (int round = 0; round < 2000; ++round)
    pool_.Run([&](int worker) { ++calls[static_cast<size_t>(worker)]; });
  for (int count : calls) EXPECT_EQ(count, 2000);
}

TEST_P(ThreadPoolTest, ParallelForVisitsEveryIndexOnce) {
  for (int64_t count : {0, 1, 2, 3, 7, 100, 1001}) {
    std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
    pool_.ParallelFor(count, [&](int64_t index, int) { ++visits[static_cast<size_t>(index)]; });
    for (const std::atomic<int>& visit : visits) EXPECT_EQ(visit.load(), 1);
  }
}

TEST_P(ThreadPoolTest, WorkersWakeUpAfterSleeping) {
  std::atomic<int> calls{0};
  pool_.Run([&](int) { ++calls; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pool_.Run([&](int) { ++calls; });
  EXPECT_EQ(calls.load(), 2 * pool_.num_threads());
}

TEST_P(ThreadPoolTest, ExceptionArrivesAtTheCallerAndThePoolLivesOn) {
  const auto fail = [](int64_t index, int) {
    if (index == 5) throw std::runtime_error("five");
  };
  EXPECT_THROW(pool_.ParallelFor(10, fail), std::runtime_error);
  std::atomic<int64_t> sum{0};
  pool_.ParallelFor(10, [&](int64_t index, int) { sum += index; });
  EXPECT_EQ(sum.load(), 45);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

TEST(SplitRangeTest, PartsCoverTheRangeInOrder) {
  for (int64_t count : {0, 1, 15, 16, 17, 1000}) {
    for (int64_t parts : {1, 2, 3, 7}) {
      for (int64_t grain : {1, 4, 16}) {
        int64_t next = 0;
        for (int64_t i = 0; i < parts; ++i) {
          const Range range = SplitRange(count, parts, i, grain);
          EXPECT_EQ(range.begin, next);
          EXPECT_TRUE(range.end == count || range.end % grain == 0);
          next = range.end;
        }
        EXPECT_EQ(next, count);
      }
    }
  }
}

TEST(TopologyTest, HasCoresAndAtLeastOneThread) {
  const Topology topology = DiscoverTopology();
  EXPECT_GE(topology.cores.size(), 1u);
  EXPECT_GE(topology.DefaultThreads(), 1);
  EXPECT_LE(topology.DefaultThreads(), static_cast<int>(topology.cores.size()));
}

}  // namespace
}  // namespace fiddler
