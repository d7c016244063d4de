// Splits one long, seldom job (filling memory, reading files) over threads. Not for the path of a token.
#pragma once

#include <cstddef>
#include <functional>

namespace fiddler {

// Calls work(block) once for every block in [0, num_blocks), on up to `threads` threads, the calling one
// included, and returns when all are done. If work throws, blocks not yet begun are dropped and the first
// exception is thrown here.
void ForEachBlock(size_t num_blocks, unsigned threads, const std::function<void(size_t)>& work);

}  // namespace fiddler
