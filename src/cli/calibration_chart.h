// Draws what a slice costs over the number of its tokens: measured, fitted, and the roof.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/calibration_report.h"

namespace fiddler {

// SVG: one panel for each of `slices` (at least one), both axes logarithmic. `machine` goes under the title.
std::string DrawCalibration(std::span<const CalibratedSlice> slices, std::string_view machine);

}  // namespace fiddler
