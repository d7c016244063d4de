// From times that were measured to the cost model a plan is made with. Pure.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "calibrate/measurements.h"
#include "plan/cost_model.h"

namespace fiddler {

// How far a fitted table may be from what was measured: what repeating a measurement changes anyway.
inline constexpr double kFitTolerance = 0.03;

// More tokens are never less work: samples that fall are noise and take their common mean, so that the result
// ascends and is as near to the samples as anything that does (isotonic regression by pooling adjacent
// violators: Ayer et al., 1955; weights 1 / seconds^2, as errors are relative).
std::vector<CostSample> WithoutFalls(std::span<const CostSample> samples);

// The table with the fewest knots, all at samples that do not fall, that is within `tolerance` (relative) of
// every such sample; of several the one whose largest error is least. Never falls. CHECKs that there is a
// sample, that tokens ascend and that all numbers are positive.
CostTable FitCosts(std::span<const CostSample> samples, double tolerance);

// `device` may be null; with one, the CPU's part of a layer starts after a hand-over. Memory that CPU and
// link share takes at most as long for a slice as the CPU alone.
CostModel FitCostModel(const CpuCosts& cpu, const DeviceCosts* device, double slice_bytes);

}  // namespace fiddler
