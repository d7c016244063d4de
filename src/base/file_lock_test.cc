#include "base/file_lock.h"

#include <gtest/gtest.h>

#include <fstream>
#include <thread>
#include <vector>

#include "base/error_testing.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

// Without the lock some of these read-modify-writes would be lost.
TEST(FileLockTest, OneHolderAtATime) {
  const fs::path path = fs::path(testing::TempDir()) / "lock_test_counter";
  std::ofstream(path) << 0;
  constexpr int kThreads = 4;
  constexpr int kTimes = 50;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kTimes; ++i) {
          const FileLock lock(path);
          int count = -1;
          std::ifstream(path) >> count;
          std::this_thread::yield();
          std::ofstream(path) << count + 1;
        }
      });
    }
  }
  int count = 0;
  std::ifstream(path) >> count;
  EXPECT_EQ(count, kThreads * kTimes);
}

TEST(FileLockTest, NamesTheFile) {
  EXPECT_NE(ErrorOf([] { FileLock("/nowhere/x"); }).find("/nowhere/x.lock: expected"), std::string::npos);
}

}  // namespace
}  // namespace fiddler
