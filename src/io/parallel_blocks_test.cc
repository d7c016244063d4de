#include "io/parallel_blocks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "io/test_files.h"

namespace fiddler {
namespace {

TEST(ForEachBlock, RunsEveryBlockOnce) {
  for (const unsigned threads : {1u, 2u, 7u}) {
    for (const size_t num_blocks : {size_t{0}, size_t{1}, size_t{3}, size_t{1000}}) {
      std::vector<std::atomic<int>> runs(num_blocks);
      ForEachBlock(num_blocks, threads, [&](size_t block) { ++runs.at(block); });
      for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1) << threads << " threads";
    }
  }
}

TEST(ForEachBlock, RethrowsAFailureAndDropsTheRest) {
  constexpr size_t kBlocks = 10'000;
  std::atomic<size_t> runs = 0;
  const std::string message = ErrorOf([&] {
    ForEachBlock(kBlocks, 4, [&](size_t block) {
      ++runs;
      if (block == 0) throw Error("block failed");
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    });
  });
  EXPECT_EQ(message, "block failed");
  EXPECT_LT(runs, kBlocks);  // the other threads stop too
}

}  // namespace
}  // namespace fiddler
