// Cosines and sines of RoPE for every position of a context, with the model's stretching applied.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec.h"

namespace fiddler {

class RopeTable {
 public:
  RopeTable(const RopeSpec& rope, int64_t num_positions);

  const float* Cos(int64_t position) const { return cos_.data() + position * half_; }  // [rotary_dim / 2]
  const float* Sin(int64_t position) const { return sin_.data() + position * half_; }  // [rotary_dim / 2]

 private:
  int64_t half_;
  std::vector<float> cos_;  // [num_positions, rotary_dim / 2]
  std::vector<float> sin_;
};

// Radians a position turns each pair of dimensions by, [rotary_dim / 2].
std::vector<float> RopeFrequencies(const RopeSpec& rope);

}  // namespace fiddler
