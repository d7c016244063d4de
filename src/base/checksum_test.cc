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
  EXPECT_EQ(Checksum64({}), 0x7473f8ea11b0f837u);
  EXPECT_EQ(Checksum64(std::as_bytes(std::span(std::string_view("fiddler")))), 0xb1fa037cdef2beccu);
  EXPECT_EQ(Checksum64(RandomBytes(1000)), 0x90027de6a660616u);
}

TEST(Checksum64Test, EveryFlippedBitIsSeen) {
  for (const size_t size : {1, 8, 63, 64, 65, 200}) {
    std::vector<std::byte> bytes = RandomBytes(size);
    const uint64_t sum = Checksum64(bytes);
    for (size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      EXPECT_NE(Checksum64(bytes), sum) << size << " bytes, bit " << bit;
      bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
  }
}

// Two bits, one of them the highest of its word: products alone would miss some.
TEST(Checksum64Test, PairsOfHighBitsAreSeen) {
  std::vector<std::byte> bytes = RandomBytes(256);
  const uint64_t sum = Checksum64(bytes);
  bytes[7] ^= std::byte{0x80};
  for (size_t bit = 64; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_NE(Checksum64(bytes), sum) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
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
