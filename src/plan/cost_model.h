// What the work of a layer's experts costs on one machine, for slices of one size. Plain data: measured by
// calibrate/, or derived from a HardwareProfile.
#pragma once

#include <string_view>

#include "base/json_fwd.h"
#include "plan/cost_table.h"
#include "plan/hardware.h"

namespace fiddler {

struct SliceShape {
  double bytes = 0;
  double flops_per_token = 0;  // 2 for each weight
};

// Seconds.
struct CostModel {
  CostTable cpu;                  // one slice with n tokens, all CPU threads at it
  double cpu_start = 0;           // of a layer in which the CPU does anything
  double dram_slice_seconds = 0;  // one slice through the memory that CPU and link share

  bool has_gpu = false;  // if not, what follows is not looked at
  CostTable gpu;         // one slice with n tokens
  double gpu_start = 0;  // of a layer in which the GPU does anything
  double link_slice_seconds = 0;

  bool operator==(const CostModel&) const = default;
};

// Roofline of one slice: n tokens take max(bytes / read rate, n * flops / arithmetic rate) on either side,
// with a knot where the two are equal. CHECKs that the rates and the shape are positive.
CostModel MakeCostModel(const HardwareProfile& hardware, const SliceShape& slice);

// Throws Error naming source, field, expected and got. Without a GPU its fields are left out.
CostModel CostModelFromJson(const Json& json, std::string_view source);
Json ToJson(const CostModel& cost);

}  // namespace fiddler
