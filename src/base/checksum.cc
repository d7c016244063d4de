#include "base/checksum.h"

#include <bit>
#include <cstring>

namespace fiddler {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr size_t kLanes = 8;  // independent sums: a step waits for its product, eight of them do not
constexpr size_t kWordBytes = sizeof(uint64_t);

uint64_t WordAt(const std::byte* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

}  // namespace

uint64_t Checksum64(std::span<const std::byte> bytes) {
  uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::byte* next = bytes.data();
  size_t left = bytes.size();
  for (; left >= kLanes * kWordBytes; left -= kLanes * kWordBytes, next += kLanes * kWordBytes) {
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = ChecksumStep(lanes[i], WordAt(next + i * kWordBytes));
  }
  uint64_t sum = bytes.size();
  for (const uint64_t lane : lanes) sum = ChecksumStep(sum, lane);
  for (size_t count = 0; left > 0; left -= count, next += count) {
    count = left < kWordBytes ? left : kWordBytes;
    uint64_t word = 0;
    std::memcpy(&word, next, count);
    sum = ChecksumStep(sum, word);
  }
  return sum;
}

}  // namespace fiddler
