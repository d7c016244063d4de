// Finds damage, not malice: what a file ends with, or carries in a field, so that one that was cut short or
// edited by hand is noticed.
#pragma once

#include <cstdint>
#include <string_view>

namespace fiddler {

// FNV-1a, 64 bits (Fowler, Noll, Vo): every step is invertible, so a change of a single byte is always seen.
inline uint64_t Fnv1a(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace fiddler
