#include "kv/block_pool.h"

#include "base/check.h"

namespace fiddler {

BlockPool::BlockPool(int32_t capacity) : in_use_(static_cast<size_t>(capacity)) {
  free_.reserve(in_use_.size());
  for (BlockId block = capacity - 1; block >= 0; --block) free_.push_back(block);
}

std::optional<BlockId> BlockPool::TryTake() {
  if (free_.empty()) return std::nullopt;
  const BlockId block = free_.back();
  free_.pop_back();
  in_use_[static_cast<size_t>(block)] = true;
  return block;
}

void BlockPool::Return(BlockId block) {
  CHECK(block >= 0 && block < capacity() && in_use_[static_cast<size_t>(block)], "block {} is not in use",
        block);
  in_use_[static_cast<size_t>(block)] = false;
  free_.push_back(block);
}

}  // namespace fiddler
