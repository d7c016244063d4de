// The merges of a byte-pair model: which two neighbouring tokens become which one, and how early.
// A flat hash table, since encoding is little else than looking pairs up. Immutable after the last Insert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fiddler::text {

class MergeTable {
 public:
  struct Merge {
    uint32_t rank;   // lower ranks merge first
    int32_t merged;  // id of the token that left and right become
  };

  explicit MergeTable(size_t num_merges);  // room for so many

  void Insert(int32_t left, int32_t right, Merge merge);  // a pair inserted again takes the new merge

  const Merge* Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t i = Home(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].merge;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // not a pair: ids are not negative
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{};
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // Fibonacci hashing: the high bits of the product depend on all bits of the key.
  size_t Home(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> shift_); }

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t mask_;
  int shift_;
};

}  // namespace fiddler::text
