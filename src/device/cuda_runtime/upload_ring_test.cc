#include "device/cuda_runtime/upload_ring.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <deque>
#include <vector>

#include "base/rng.h"

namespace fiddler::cuda {
namespace {

TEST(UploadRingTest, FillsAndFreesOldestFirst) {
  UploadRing ring(1024, 4);
  EXPECT_EQ(ring.Take(1), 0u);
  EXPECT_EQ(ring.Take(256), 256u);
  EXPECT_EQ(ring.Mark(), 0);
  EXPECT_EQ(ring.Mark(), std::nullopt) << "nothing was taken since";
  EXPECT_EQ(ring.Take(512), 512u);
  EXPECT_EQ(ring.Mark(), 1);
  EXPECT_EQ(ring.Take(1), std::nullopt);
  EXPECT_EQ(ring.Oldest(), 0);
  ring.Retire();
  EXPECT_EQ(ring.Take(512), 0u);
  EXPECT_EQ(ring.Take(1), std::nullopt);
  EXPECT_EQ(ring.Oldest(), 1);
  ring.Retire();
  EXPECT_EQ(ring.Oldest(), std::nullopt);
  EXPECT_EQ(ring.Take(512), 512u);
  EXPECT_EQ(ring.Take(256), std::nullopt) << "what is not marked is in use";
  EXPECT_EQ(ring.Mark(), 2);
  ring.Retire();
  EXPECT_EQ(ring.Take(1024), 0u) << "an empty ring has room for all it can hold";
}

TEST(UploadRingTest, WhatDoesNotFitBeforeTheEndGoesToTheStart) {
  UploadRing ring(1024, 4);
  EXPECT_EQ(ring.Take(512), 0u);
  EXPECT_EQ(ring.Mark(), 0);
  EXPECT_EQ(ring.Take(256), 512u);
  EXPECT_EQ(ring.Mark(), 1);
  EXPECT_EQ(ring.Take(512), std::nullopt);
  ring.Retire();
  EXPECT_EQ(ring.Take(512), 0u);
}

TEST(UploadRingTest, MarksHaveAnEnd) {
  UploadRing ring(4096, 2);
  ring.Take(1);
  EXPECT_EQ(ring.Mark(), 0);
  EXPECT_FALSE(ring.MarksFull());
  ring.Take(1);
  EXPECT_EQ(ring.Mark(), 1);
  EXPECT_TRUE(ring.MarksFull());
  ring.Retire();
  EXPECT_FALSE(ring.MarksFull());
  ring.Take(1);
  EXPECT_EQ(ring.Mark(), 0);
}

// As the plugin uses it, against a map of bytes: what is in use is never given again.
TEST(UploadRingTest, AgainstEveryByte) {
  constexpr size_t kBytes = 16 * UploadRing::kAlignment;
  constexpr int kMarks = 3;
  Rng rng(11);
  UploadRing ring(kBytes, kMarks);
  std::vector<int> owner(kBytes, 0);  // operation that has the byte; 0: none
  std::deque<int> marked;
  int waits = 0;
  const auto retire = [&] {
    ASSERT_TRUE(ring.Oldest().has_value());
    ASSERT_FALSE(marked.empty());
    ring.Retire();
    for (int& operation : owner) {
      if (operation == marked.front()) operation = 0;
    }
    marked.pop_front();
    ++waits;
  };
  for (int operation = 1; operation <= 3000; ++operation) {
    const int arrays = static_cast<int>(rng.NextUnit() * 3);
    for (int i = 0; i < arrays; ++i) {
      const size_t bytes = static_cast<size_t>(rng.NextUnit() * (kBytes / 4)) + 1;
      std::optional<size_t> place;
      while (!(place = ring.Take(bytes))) {
        ASSERT_NO_FATAL_FAILURE(retire());
      }
      ASSERT_EQ(*place % UploadRing::kAlignment, 0u);
      for (size_t byte = *place; byte < *place + bytes; ++byte) {
        ASSERT_EQ(owner.at(byte), 0) << "operation " << operation;
        owner[byte] = operation;
      }
    }
    if (ring.MarksFull()) {
      ASSERT_NO_FATAL_FAILURE(retire());
    }
    const std::optional<int> mark = ring.Mark();
    ASSERT_EQ(mark.has_value(), arrays > 0);
    if (!mark) continue;
    ASSERT_LT(*mark, kMarks);
    marked.push_back(operation);
  }
  EXPECT_GT(waits, 500);
}

}  // namespace
}  // namespace fiddler::cuda
