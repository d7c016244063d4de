#include "base/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"

namespace fiddler {
namespace {

// A made-up /proc and /sys.
class FakeSystem : public testing::Test {
 protected:
  FakeSystem() {
    std::string name = (std::filesystem::temp_directory_path() / "fiddler-memory-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Error("{}: cannot create", name);
    root_ = name;
  }
  ~FakeSystem() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  void Write(const std::filesystem::path& name, std::string_view content) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << content;
  }

  std::filesystem::path root_;
};

TEST_F(FakeSystem, WithoutProcNothingIsKnown) {
  EXPECT_EQ(AvailableMemoryBytes(root_), std::numeric_limits<uint64_t>::max());
}

TEST_F(FakeSystem, ReadsMemAvailable) {
  Write("proc/meminfo", "MemTotal:  64 kB\nMemFree:   16 kB\nMemAvailable:   32 kB\n");
  EXPECT_EQ(AvailableMemoryBytes(root_), 32 * 1024u);
}

TEST_F(FakeSystem, TheTightestControlGroupCounts) {
  Write("proc/meminfo", "MemAvailable:   1000 kB\n");
  Write("proc/self/cgroup", "4:memory:/elsewhere\n0::/user/job\n");
  Write("sys/fs/cgroup/user/job/memory.max", "max\n");
  Write("sys/fs/cgroup/user/job/memory.current", "5000\n");
  EXPECT_EQ(AvailableMemoryBytes(root_), 1'024'000u);

  Write("sys/fs/cgroup/user/memory.max", "500000\n");
  Write("sys/fs/cgroup/user/memory.current", "200000\n");
  EXPECT_EQ(AvailableMemoryBytes(root_), 300'000u);

  Write("sys/fs/cgroup/user/memory.stat", "anon 70000\nactive_file 30000\ninactive_file 100000\n");
  EXPECT_EQ(AvailableMemoryBytes(root_), 430'000u);  // page cache can be dropped

  Write("sys/fs/cgroup/memory.max", "1000\n");  // as inside a container, which sees its own group as the root
  Write("sys/fs/cgroup/memory.current", "2000\n");
  EXPECT_EQ(AvailableMemoryBytes(root_), 0u);
}

TEST(Memory, ThisMachineHasSome) {
  EXPECT_GT(AvailableMemoryBytes(), 0u);
  EXPECT_LT(AvailableMemoryBytes(), uint64_t{1} << 50);
}

TEST(Memory, WhatDoesNotFitIsAnError) {
  RequireMemory(1, "one byte");
  try {
    RequireMemory(uint64_t{1} << 50, "the moon");
    FAIL();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("the moon: expected 1024.0 TiB of free memory, got ")) << message;
  }
  EXPECT_THROW(HugePageBuffer(size_t{1} << 50, "the moon"), Error);
}

TEST(HugePageBuffer, IsAlignedWritableAndMovable) {
  HugePageBuffer buffer(3'000'000, "test");
  ASSERT_EQ(buffer.bytes().size(), 3'000'000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.bytes().data()) % kHugePageBytes, 0u);
  EXPECT_EQ(buffer.bytes().back(), std::byte{0});
  std::ranges::fill(buffer.bytes(), std::byte{7});
  HugePageBuffer moved = std::move(buffer);
  EXPECT_EQ(moved.bytes().back(), std::byte{7});
  moved = HugePageBuffer();
  EXPECT_EQ(HugePageBuffer(0, "nothing").bytes().size(), 0u);
}

TEST(HugePageArena, AllocationsShareNoPage) {
  HugePageArena arena;
  std::vector<std::span<std::byte>> allocations;
  for (const size_t bytes : {1, 4096, 4097, 10'000'000, 30'000'000, 20'000'000, 15'000'000, 15'000'000,
                             15'000'000, 15'000'000, 15'000'000, 0, 3}) {
    allocations.push_back(arena.Allocate(bytes, "test"));
    ASSERT_EQ(allocations.back().size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(allocations.back().data()) % 4096, 0u);
    std::ranges::fill(allocations.back(), static_cast<std::byte>(allocations.size()));
  }
  for (size_t i = 0; i < allocations.size(); ++i) {
    EXPECT_TRUE(std::ranges::all_of(allocations[i], [&](std::byte b) { return b == std::byte(i + 1); })) << i;
  }
}

}  // namespace
}  // namespace fiddler
