#include "io/parallel_blocks.h"

#include <gtest/gtest.h>

#include <atomic>
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

TEST(ForEachBlock, RethrowsTheFirstFailureAndStops) {
  std::atomic<size_t> runs = 0;
  const std::string message = ErrorOf([&] {
    ForEachBlock(1'000'000, 4, [&](size_t) {
      ++runs;
      throw Error("block failed");
    });
  });
  EXPECT_EQ(message, "block failed");
  EXPECT_LE(runs, 4u);  // each thread fails at its first block
}

}  // namespace
}  // namespace fiddler
