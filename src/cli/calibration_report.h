// What calibrate found, for people and for scripts; calibration_chart.h draws it.
#pragma once

#include <optional>
#include <string>

#include "calibrate/measurements.h"
#include "cli/output.h"
#include "experts/slice.h"
#include "plan/cost_model.h"

namespace fiddler {

// Slices of one geometry, measured and fitted.
struct CalibratedSlice {
  SlicedFfn expert;  // without data
  Rounding rounding = Rounding::kNone;
  CpuCosts cpu;
  std::optional<DeviceCosts> device;
  CostModel cost;

  // The least the CPU could need for a slice with n tokens: reading it once, or its arithmetic at the
  // measured peak, whichever takes longer.
  double RoofSeconds(double tokens) const;
};

OrderedJson DescribeSlice(const CalibratedSlice& slice);

// A table: a row for every number of tokens, measured, fitted, and the percentage of the limit.
std::string SliceTable(const CalibratedSlice& slice);

}  // namespace fiddler
