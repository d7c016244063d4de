// How fast a packed expert file can be read at all: what reading experts is held against.
#pragma once

#include <cstdint>

#include "experts/packed_file.h"

namespace fiddler {

// Bytes a second, wall time: random pieces, as many at a time as an ExpertReader reads, past the page cache,
// for about `seconds`; nothing is computed from them. The machine below may have a cache of its own: seeds
// that differ read other pieces. Throws Error where the disk fails.
double DiskReadRate(const PackedFile& file, double seconds, uint64_t seed);

}  // namespace fiddler
