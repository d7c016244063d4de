// What is measured of a machine for slices of one geometry, before anything is fitted. Plain data, medians.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/packed_matrix.h"

namespace fiddler {

// What the cost of a slice depends on.
struct SliceGeometry {
  int64_t hidden = 0;
  int64_t slice_neurons = 0;
  WeightFormat format = WeightFormat::kF32;
  Rounding rounding = Rounding::kNone;  // of activations: kNone or FastRounding(format)

  bool operator==(const SliceGeometry&) const = default;
};

struct CostSample {
  double tokens = 0;
  double seconds = 0;  // of one slice

  bool operator==(const CostSample&) const = default;
};

struct CpuCosts {
  std::vector<CostSample> slice;  // all threads at it; tokens ascend
  double start_seconds = 0;       // of a layer of experts, beside its slices
  double read_gbps = 0;           // the limits of the machine, measured beside it
  double peak_gops = 0;           // of this geometry's arithmetic
  double spread = 0;  // of repeats: their middle half over their median, typical of the numbers of tokens
};

struct LinkSample {
  double bytes = 0;  // of one copy
  double in_seconds = 0;
  double out_seconds = 0;
};

struct DeviceCosts {
  std::vector<CostSample> slice;   // tokens ascend
  double start_seconds = 0;        // of a layer of experts on the device, beside its slices
  std::vector<LinkSample> link;    // the CPU idle
  double link_slice_seconds = 0;   // a slice to the device, one behind the other, the CPU idle
  double joint_gbps = 0;           // CPU experts and the link at once
  double handoff_p50_seconds = 0;  // a flag to the device and back
  double handoff_p99_seconds = 0;
};

}  // namespace fiddler
