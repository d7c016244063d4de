// A heat map of how often every expert of every layer was chosen, as SVG.
#pragma once

#include <string>

#include "experts/popularity.h"

namespace fiddler {

// Layers down, experts across; a cell is how many times as often as if all experts were used alike.
std::string DrawPopularity(const ExpertPopularity& popularity);

}  // namespace fiddler
