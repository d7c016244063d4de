// What an engine is told of the device beside the CPU, and what it tells of its use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "experts/policy.h"
#include "plan/cost_model.h"
#include "plan/layer_plan.h"

namespace fiddler {

using PolicyFactory = std::function<std::unique_ptr<Policy>(const PolicyGeometry&, const CostModel&)>;

// A device, and how to use it.
struct DeviceSetup {
  Device* device = nullptr;
  PolicyFactory make_policy;  // who computes which experts
  CostModel cost;
  uint64_t memory_bytes = 0;             // of the device that may be used
  std::vector<int64_t> popularity = {};  // [num_layers * num_experts] tokens that chose an expert; or empty
};

// Slices that experts with tokens had, by who computed them, since the start.
struct ExpertTraffic {
  int64_t resident = 0;  // on the device, from a slot
  int64_t fetched = 0;   // on the device, copied for it
  int64_t cpu = 0;
  int64_t idle_copies = 0;  // copied and not computed
};

// What a decision was about: experts of a layer with tokens, in order of their numbers.
using LoadObserver = std::function<void(int64_t layer, std::span<const ExpertLoad> loads)>;

}  // namespace fiddler
