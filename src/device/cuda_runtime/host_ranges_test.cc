#include "device/cuda_runtime/host_ranges.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace fiddler::cuda {
namespace {

using Owner = HostRanges::Owner;

constexpr uintptr_t kPiece = HostRanges::kPieceBytes;
constexpr uintptr_t kPage = HostRanges::kPageBytes;

// Nobody looks at what is there.
const void* At(uintptr_t address) { return reinterpret_cast<const void*>(address); }

// Sizes of the parts of a copy, which lie one behind the other.
std::vector<uint64_t> Parts(const HostRanges& ranges, uintptr_t address, uint64_t bytes) {
  std::vector<uint64_t> parts;
  uint64_t next = 0;
  ranges.CopyInParts(At(address), bytes, [&](uint64_t offset, uint64_t part) {
    EXPECT_EQ(offset, next);
    next += part;
    parts.push_back(part);
  });
  EXPECT_EQ(next, bytes);
  return parts;
}

TEST(HostRangesTest, PinnedMemoryIsCutAtMultiplesOfAPiece) {
  HostRanges ranges;
  const auto pieces = ranges.Add(At(3 * kPiece - kPage - 8), 2 * kPiece, Owner::kHost, "pin");
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].begin, 3 * kPiece - 2 * kPage);
  EXPECT_EQ(pieces[0].bytes, 2 * kPage);
  EXPECT_EQ(pieces[1].begin, 3 * kPiece);
  EXPECT_EQ(pieces[1].bytes, kPiece);
  EXPECT_EQ(pieces[2].begin, 4 * kPiece);
  EXPECT_EQ(pieces[2].bytes, kPiece - kPage) << "up to the end of its last page";
  EXPECT_EQ(ranges.Find(At(3 * kPiece - kPage - 8), Owner::kHost, "unpin").size(), 3u);
}

TEST(HostRangesTest, ThePluginsOwnIsOnePiece) {
  HostRanges ranges;
  const auto pieces = ranges.Add(At(kPiece - kPage), 3 * kPiece + 1, Owner::kPlugin, "allocate_pinned");
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].bytes, 3 * kPiece + 1);
}

TEST(HostRangesTest, APageIsPinnedOnce) {
  HostRanges ranges;
  ranges.Add(At(8 * kPage + 100), 1, Owner::kHost, "pin");
  EXPECT_THROW(ranges.Add(At(8 * kPage + 200), 1, Owner::kHost, "pin"), std::runtime_error);
  EXPECT_THROW(ranges.Add(At(7 * kPage), kPage + 1, Owner::kHost, "pin"), std::runtime_error);
  EXPECT_THROW(ranges.Add(At(kPage), 20 * kPage, Owner::kHost, "pin"), std::runtime_error);
  EXPECT_NO_THROW(ranges.Add(At(7 * kPage), kPage, Owner::kHost, "pin"));
  EXPECT_NO_THROW(ranges.Add(At(9 * kPage), kPage, Owner::kHost, "pin"));
  EXPECT_THROW(ranges.Add(At(30 * kPage), 0, Owner::kHost, "pin"), std::runtime_error);
  EXPECT_THROW(ranges.Add(nullptr, 1, Owner::kHost, "pin"), std::runtime_error);
}

TEST(HostRangesTest, WhoAddedItTakesItAway) {
  HostRanges ranges;
  ranges.Add(At(kPage), kPage, Owner::kHost, "pin");
  ranges.Add(At(4 * kPage), kPage, Owner::kPlugin, "allocate_pinned");
  EXPECT_EQ(ranges.All(Owner::kHost), std::vector<const void*>{At(kPage)});
  EXPECT_EQ(ranges.All(Owner::kPlugin), std::vector<const void*>{At(4 * kPage)});
  EXPECT_THROW(ranges.Find(At(kPage), Owner::kPlugin, "release_pinned"), std::runtime_error);
  EXPECT_THROW(ranges.Find(At(4 * kPage), Owner::kHost, "unpin"), std::runtime_error);
  EXPECT_THROW(ranges.Find(At(2 * kPage), Owner::kHost, "unpin"), std::runtime_error);
  ranges.Remove(At(kPage));
  EXPECT_THROW(ranges.Find(At(kPage), Owner::kHost, "unpin"), std::runtime_error);
  EXPECT_EQ(Parts(ranges, 0, 3 * kPage), std::vector<uint64_t>{3 * kPage});
  EXPECT_NO_THROW(ranges.Add(At(kPage), kPage, Owner::kHost, "pin"));
}

TEST(HostRangesTest, CopiesStopAtBorders) {
  HostRanges ranges;
  ranges.Add(At(kPiece - kPage), 2 * kPage, Owner::kHost, "pin");
  using Sizes = std::vector<uint64_t>;
  EXPECT_EQ(Parts(ranges, kPage, 10), Sizes{10});
  EXPECT_EQ(Parts(ranges, kPage, 0), Sizes{});
  EXPECT_EQ(Parts(ranges, kPiece - kPage - 1, 10), (Sizes{1, 9})) << "where it begins";
  EXPECT_EQ(Parts(ranges, kPiece - kPage, kPage), Sizes{kPage});
  EXPECT_EQ(Parts(ranges, kPiece - 1, 10), (Sizes{1, 9})) << "where the next piece begins";
  EXPECT_EQ(Parts(ranges, kPiece, 3 * kPage), (Sizes{kPage, 2 * kPage})) << "where it ends";
  EXPECT_EQ(Parts(ranges, kPiece - 2 * kPage, 4 * kPage), (Sizes{kPage, kPage, kPage, kPage}));
  EXPECT_EQ(Parts(ranges, kPiece + kPage, 10 * kPage), Sizes{10 * kPage});
}

TEST(HostRangesTest, OnlyWhatIsPinnedHasADeviceAddress) {
  HostRanges ranges;
  const auto pieces = ranges.Add(At(kPiece - kPage), 2 * kPage, Owner::kHost, "pin");
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece - kPage), 4), std::nullopt) << "not registered yet";
  constexpr uint64_t kDown = ~uint64_t{0};  // an offset of -1
  ranges.SetPinned(pieces[0], kDown);
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece - 8), 8), kPiece - 9);
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece - 8), 9), std::nullopt) << "in two pieces";
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece - kPage - 1), 1), std::nullopt);
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece), 1), std::nullopt) << "its piece is not registered";
  ranges.SetPinned(pieces[1], 0);
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece), kPage), kPiece);
  EXPECT_EQ(ranges.DeviceAddress(At(kPiece), kPage + 1), std::nullopt);
}

// What the engine does: one thread pins in the background while another copies and looks up its flags.
TEST(HostRangesTest, AnotherThreadLooksMeanwhile) {
  constexpr int kParts = 200;
  HostRanges ranges;
  for (const auto& piece : ranges.Add(At(kPage), kPage, Owner::kPlugin, "allocate_pinned")) {
    ranges.SetPinned(piece, 0);
  }
  std::atomic<bool> done = false;
  std::thread pinning([&] {
    for (uintptr_t part = 0; part < kParts; ++part) {
      for (const auto& piece : ranges.Add(At(kPiece + part * kPage), kPage, Owner::kHost, "pin")) {
        ranges.SetPinned(piece, 0);
      }
    }
    done = true;
  });
  uint64_t looks = 0;
  while (!done || looks == 0) {
    ASSERT_EQ(ranges.DeviceAddress(At(kPage), 4), kPage);
    const uint64_t first = Parts(ranges, kPiece, 4 * kPage).front();
    ASSERT_TRUE(first == kPage || first == 4 * kPage) << first;
    ++looks;
  }
  pinning.join();
  EXPECT_EQ(ranges.All(Owner::kHost).size(), static_cast<size_t>(kParts));
}

}  // namespace
}  // namespace fiddler::cuda
