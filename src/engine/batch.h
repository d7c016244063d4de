// What one forward pass computes: for each sequence in it, some consecutive tokens.
#pragma once

#include <cstdint>
#include <span>

#include "kv/block_pool.h"

namespace fiddler {

struct BatchEntry {
  std::span<const int32_t> tokens;       // at least one
  int64_t first_position = 0;            // of tokens[0]; the KV cache holds everything before
  std::span<const BlockId> block_table;  // has room for the last of these tokens
};

// The tokens of a batch lie row after row, entry after entry.
inline int64_t CountTokens(std::span<const BatchEntry> batch) {
  int64_t tokens = 0;
  for (const BatchEntry& entry : batch) tokens += static_cast<int64_t>(entry.tokens.size());
  return tokens;
}

}  // namespace fiddler
