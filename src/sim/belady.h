// The most hits any policy could have: Belady's rule (IBM Systems Journal 5(2), 1966), which keeps what is
// needed again soonest and therefore has to know the future. For tests and as the ceiling in simulations.
#pragma once

#include <cstdint>

#include "sim/access_list.h"

namespace fiddler {

// Hits with so many slots. A step's experts are looked up before any of them is replaced, as with
// CachePolicy::Pin. To bound every policy it may do what some do: start with whatever experts it likes (as a
// static cache does) and use an expert without keeping it (as one does when all slots are pinned).
int64_t BeladyHits(const AccessList& list, int64_t slots);

}  // namespace fiddler
