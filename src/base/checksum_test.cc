#include "base/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "base/rng.h"

namespace fiddler {
namespace {

std::vector<std::byte> RandomBytes(size_t size) {
  Rng rng(size);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.NextBits());
  return bytes;
}

// Files hold these values: they may never change.
TEST(Checksum64Test, KnownValues) {
  EXPECT_EQ(Checksum64({}), 0xb3cd661ec62963fbu);
  EXPECT_EQ(Checksum64(std::as_bytes(std::span(std::string_view("fiddler")))), 0x7594f9a4b09279f3u);
  EXPECT_EQ(Checksum64(RandomBytes(1000)), 0x67937159993ccfc6u);
}

TEST(Checksum64Test, EveryFlippedBitIsSeen) {
  for (const size_t size : {1, 8, 63, 64, 65, 200}) {
    std::vector<std::byte> bytes = RandomBytes(size);
    std::set<uint64_t> sums = {Checksum64(bytes)};
    for (size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      EXPECT_TRUE(sums.insert(Checksum64(bytes)).second) << size << " bytes, bit " << bit;
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
  }
}

// The highest bits of two words of one lane: what a sum of products alone would miss.
TEST(Checksum64Test, PairsOfHighBitsAreSeen) {
  std::vector<std::byte> bytes = RandomBytes(256);
  const uint64_t sum = Checksum64(bytes);
  bytes[7] ^= std::byte{0x80};
  bytes[64 + 7] ^= std::byte{0x80};
  EXPECT_NE(Checksum64(bytes), sum);
}

TEST(Checksum64Test, LengthAndPlaceCount) {
  std::vector<std::byte> bytes(100);
  std::set<uint64_t> sums;
  for (size_t size = 0; size <= bytes.size(); ++size) {
    EXPECT_TRUE(sums.insert(Checksum64(std::span(bytes).first(size))).second) << size << " zeros";
  }
  std::vector<std::byte> swapped = RandomBytes(128);
  const uint64_t sum = Checksum64(swapped);
  std::swap_ranges(swapped.begin(), swapped.begin() + 8, swapped.begin() + 8);  // two lanes
  EXPECT_NE(Checksum64(swapped), sum);
}

}  // namespace
}  // namespace fiddler
