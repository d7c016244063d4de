#include "device/cuda_runtime/sub_allocator.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/rng.h"
#include "device/emulated_testing.h"

namespace fiddler::cuda {
namespace {

using fiddler::testing::Says;

template <typename Body>
std::string FailureOf(const Body& body) {
  try {
    body();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing failed";
}

TEST(SubAllocatorTest, CountsAsTheEmulatedDeviceDoes) {
  SubAllocator memory(10'000);
  const uint64_t first = memory.Allocate(1000);
  EXPECT_EQ(memory.used_bytes(), 1024u);
  const uint64_t second = memory.Allocate(8000);
  EXPECT_EQ(memory.used_bytes(), 1024u + 8192u);
  EXPECT_EQ(FailureOf([&] { memory.Allocate(1000); }),
            "allocate: expected 1000 B of free device memory, got 784 B of 9.8 KiB");
  EXPECT_TRUE(Says(FailureOf([&] { memory.Allocate(UINT64_MAX); }), {"allocate", "got 784 B"}));
  memory.Release(second);
  EXPECT_EQ(memory.used_bytes(), 1024u);
  EXPECT_EQ(memory.peak_bytes(), 1024u + 8192u);
  EXPECT_TRUE(Says(FailureOf([&] { memory.Release(second); }), {"release"}));
  EXPECT_TRUE(Says(FailureOf([&] { memory.Release(first + 256); }), {"release"}));
  memory.Release(first);
  EXPECT_EQ(memory.Allocate(9984), 0u) << "what was released is joined again";
  EXPECT_EQ(memory.cap_bytes(), 10'000u);
}

TEST(SubAllocatorTest, NothingHasAPlaceOfItsOwn) {
  SubAllocator memory(1024);
  EXPECT_NE(memory.Allocate(0), memory.Allocate(0));
}

TEST(SubAllocatorTest, SaysWhereMemoryIsInPieces) {
  SubAllocator memory(3 * 1024);
  memory.Allocate(1024);
  const uint64_t middle = memory.Allocate(512);
  memory.Allocate(1024);
  memory.Release(middle);
  EXPECT_EQ(FailureOf([&] { memory.Allocate(1024); }),
            "allocate: expected 1.0 KiB of free device memory in one piece, got 512 B, of 1.0 KiB in all");
}

TEST(SubAllocatorTest, ContainsWhatLiesInOneAllocation) {
  SubAllocator memory(4096);
  const uint64_t first = memory.Allocate(512);
  const uint64_t second = memory.Allocate(256);
  EXPECT_TRUE(memory.Contains(first, 512));
  EXPECT_TRUE(memory.Contains(first + 511, 1));
  EXPECT_FALSE(memory.Contains(first, 513)) << "runs into the next one";
  EXPECT_FALSE(memory.Contains(first + 1, UINT64_MAX));
  EXPECT_FALSE(memory.Contains(second + 256, 1));
  EXPECT_TRUE(memory.Contains(12345, 0));
  memory.Release(first);
  EXPECT_FALSE(memory.Contains(first, 1));
  EXPECT_TRUE(memory.Contains(second, 256));
}

// Against a map of bytes: nothing is given twice, and it is refused only where no hole is large enough.
TEST(SubAllocatorTest, AgainstEveryByte) {
  constexpr uint64_t kUnit = SubAllocator::kAlignment;
  constexpr size_t kUnits = 64;
  Rng rng(7);
  SubAllocator memory(kUnits * kUnit);
  std::vector<int> owner(kUnits, 0);  // of each unit; 0: free
  struct Taken {
    uint64_t offset;
    int id;
  };
  std::vector<Taken> taken;
  int refused = 0;
  for (int step = 1; step <= 5000; ++step) {
    if (!taken.empty() && rng.NextUnit() < 0.45) {
      const auto which = static_cast<size_t>(rng.NextUnit() * static_cast<double>(taken.size()));
      memory.Release(taken[which].offset);
      std::replace(owner.begin(), owner.end(), taken[which].id, 0);
      taken.erase(taken.begin() + static_cast<int64_t>(which));
      continue;
    }
    const auto bytes = static_cast<uint64_t>(rng.NextUnit() * 12 * kUnit) + 1;
    const size_t units = (bytes + kUnit - 1) / kUnit;
    size_t hole = 0;
    size_t largest = 0;
    for (const int id : owner) largest = std::max(largest, hole = id == 0 ? hole + 1 : 0);
    if (units > largest) {
      EXPECT_THROW(memory.Allocate(bytes), std::runtime_error);
      ++refused;
      continue;
    }
    const uint64_t offset = memory.Allocate(bytes);
    ASSERT_EQ(offset % kUnit, 0u);
    for (size_t unit = offset / kUnit; unit < offset / kUnit + units; ++unit) {
      ASSERT_EQ(owner.at(unit), 0) << "given twice";
      owner[unit] = step;
    }
    taken.push_back({.offset = offset, .id = step});
    ASSERT_EQ(memory.used_bytes(), kUnit * (kUnits - std::count(owner.begin(), owner.end(), 0)));
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace fiddler::cuda
