// What one layer of a routing trace asks of a cache, step by step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/routing_trace.h"

namespace fiddler {

struct AccessList {
  struct Access {
    int32_t expert = 0;
    int32_t tokens = 0;  // of the step that chose it
  };

  std::vector<Access> accesses;       // by step; each expert once a step, in the order tokens name them
  std::vector<size_t> first_of_step;  // [steps + 1]

  int64_t num_steps() const { return static_cast<int64_t>(first_of_step.size()) - 1; }
  std::span<const Access> Step(int64_t step) const {
    const size_t first = first_of_step[static_cast<size_t>(step)];
    return std::span(accesses).subspan(first, first_of_step[static_cast<size_t>(step) + 1] - first);
  }
};

AccessList LayerAccesses(const RoutingTrace& trace, int64_t layer);

}  // namespace fiddler
