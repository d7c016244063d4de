#include "text/merge_table.h"

#include <algorithm>
#include <bit>

namespace fiddler::text {

MergeTable::MergeTable(size_t num_merges) {
  const size_t capacity = std::bit_ceil(std::max<size_t>(2 * num_merges, 16));
  slots_.resize(capacity);
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
}

void MergeTable::Insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = Key(left, right);
  size_t i = Home(key);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

}  // namespace fiddler::text
