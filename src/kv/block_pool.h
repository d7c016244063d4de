// A fixed number of blocks, handed out and taken back by number. Not thread-safe; never allocates after
// construction.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fiddler {

using BlockId = int32_t;

class BlockPool {
 public:
  explicit BlockPool(int32_t capacity);

  std::optional<BlockId> TryTake();  // nothing when all are in use
  void Return(BlockId block);        // CHECKs that the block is in use

  int32_t capacity() const { return static_cast<int32_t>(in_use_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

 private:
  std::vector<BlockId> free_;  // a stack: the block last returned is the warmest
  std::vector<bool> in_use_;
};

}  // namespace fiddler
