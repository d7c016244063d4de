// 64-bit checksums against accidents: torn writes, rotten disks, files edited by hand. Not against malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace fiddler {

// One step: for a given sum every word gives another result, and for a given word every sum does, since
// multiplying by an odd number and folding the high half into the low one lose nothing. So a change in one
// word is always seen. The folding is for high bits, which a product only moves upwards.
constexpr uint64_t ChecksumStep(uint64_t sum, uint64_t word) {
  const uint64_t product = (sum ^ word) * 0x9e3779b97f4a7c15u;
  return product ^ (product >> 32);
}

// Of the bytes as little-endian words, the last one filled up with zeros, and of their number.
uint64_t Checksum64(std::span<const std::byte> bytes);

// FNV-1a, 64 bits (Fowler, Noll, Vo): a byte at a time, for small files that scripts write and check too.
// Every step is invertible, so a change of a single byte is always seen.
inline uint64_t Fnv1a(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace fiddler
