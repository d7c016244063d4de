// Who computes what: the strategies that Fiddler can run, all through one interface, so that comparisons
// differ in nothing else. A policy decides for one layer of one step, after its router has spoken; the engine
// and the simulator carry it out alike. Pure: no clock, no device. All are lossless.
//
//   balanced
//     the optimum of plan/layer_plan.h over slices; what is fetched may stay
//   fiddler
//     the most popular experts stay on the GPU for good; a missing one is copied there, whole, if that is
//     faster than the CPU with its tokens, else the CPU computes it (arXiv 2402.07033)
//   expert-cache
//     every layer keeps its experts used last; every miss is copied, the GPU computes all (Eliseev and Mazur,
//     arXiv 2312.17238)
//   stream
//     every expert of the layer is copied, used or not; the GPU computes all (ZeRO-Inference)
//   static-layers
//     the first layers' experts are on the GPU, all others on the CPU (llama.cpp -ngl)
//   cpu-experts
//     all experts on the CPU (llama.cpp --cpu-moe, KTransformers)
//
// Without a GPU all are the same: the CPU has no choice.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "experts/residency.h"
#include "plan/cost_model.h"
#include "plan/layer_plan.h"

namespace fiddler {

// An expert that at least one token of the step chose.
struct ExpertWork {
  int32_t expert = 0;  // of the layer
  int64_t tokens = 0;
};

// Slices of one expert. It has `resident` (Residency::Resident) in slots: the GPU runs [0, resident) and,
// once copied, [resident, resident + fetch); the CPU all behind those. Only if fetch is 0, cpu_resident of
// the resident ones, the last, may be the CPU's too.
struct LayerDecision {
  std::span<const ExpertShare> shares;  // one for each ExpertWork; valid until the next Decide
  // Slices of experts without tokens that are copied all the same (stream).
  int64_t idle_copies = 0;
  LayerTimes times;  // predicted
};

struct PolicyGeometry {
  int64_t num_layers = 0;
  std::span<const bool> is_moe;  // [num_layers]
  int64_t num_experts = 0;
  int64_t num_slices = 0;
  int64_t num_slots = 0;
};

class Policy {
 public:
  virtual ~Policy() = default;

  virtual std::string_view name() const = 0;

  // How slots are shared and given up under this policy.
  virtual ResidencyOptions Slots() const = 0;

  // What lies in the slots at first, in order of its worth: Residency::Admit is called for each slice. Counts
  // are tokens that chose an expert, [num_layers * num_experts], or empty if nothing is known (then: spread
  // evenly over the layers).
  virtual std::vector<ExpertId> Placement(std::span<const int64_t> popularity) const = 0;

  // work: of one layer, by ascending expert; its experts are pinned and wanted (Residency) already.
  virtual LayerDecision Decide(int64_t layer, std::span<const ExpertWork> work,
                               const Residency& residency) = 0;
};

// `cost` is copied. Throws Error listing the names there are.
std::unique_ptr<Policy> MakePolicy(std::string_view name, const PolicyGeometry& geometry,
                                   const CostModel& cost);
std::span<const std::string_view> PolicyNames();

}  // namespace fiddler
