// Runs the engine's own Residency, Policy and LayerPlanner in virtual time: on hardware that is not at hand,
// with a model that nobody has downloaded. What it says is simulated: it knows the rates of a HardwareProfile
// and nothing of what else a machine does.
//
// A step takes, for each layer,
//   - what every token passes (attention, norms, router, shared experts) where the dense weights are, on the
//     GPU if there is one: max(bytes / memory rate, operations / arithmetic rate) + launch_seconds;
//   - its experts: the LayerTimes of the policy's decision, hand-over included,
// and then the output head for the tokens that need logits. Fetched slices that the residency admits stay.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "plan/cost_model.h"
#include "plan/hardware.h"
#include "sim/token_routing.h"

namespace fiddler {

struct SimulatedModel {
  struct Layer {
    bool is_moe = true;
    double dense_bytes = 0;  // all but routed experts
    double dense_flops = 0;  // of a token
    int64_t window = 0;      // positions a token sees; 0: all
  };

  std::vector<Layer> layers;
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t num_slices = 0;  // of an expert
  SliceShape slice;
  double head_bytes = 0;
  double head_flops = 0;                    // of a token
  double kv_bytes_per_position = 0;         // of a layer
  double attention_flops_per_position = 0;  // of a layer and token
};

// Sequences take turns with their prompts, then generate together, a token each a step. A beam of w is one
// prompt and then w sequences that are copies of it: their tokens in a step are taken to be like w tokens of
// that text in a row. That is what routing is made up for; real beams share more.
struct VirtualScenario {
  int64_t prompt_tokens = 128;
  int64_t generated_tokens = 128;  // of each sequence; the first comes with its prompt. 0: prompts only
  int64_t sequences = 1;
  bool is_beam = false;
  int64_t chunk_tokens = 512;  // of a prompt in a step
  // false: the CPU first, then the copies, then the GPU, as the systems the policies stand for did it.
  bool overlap = true;
};

struct VirtualPhase {
  struct Busy {  // seconds
    double cpu = 0;
    double gpu = 0;
    double link = 0;
    double dram = 0;  // of host memory at its joint cap
  };

  int64_t steps = 0;
  double seconds = 0;
  double ceiling_seconds = 0;  // sim/layer_ceiling.h with what was resident, and the dense part
  Busy busy;
  double cpu_bytes = 0;  // of weights, keys and values, read by the CPU
  double gpu_bytes = 0;  // by the GPU
  double link_bytes = 0;
  // A step's layer that needs an expert with r of S slices resident is an access that hits r / S.
  double hits = 0;
  int64_t accesses = 0;

  double hit_rate() const { return accesses == 0 ? 0 : hits / static_cast<double>(accesses); }
};

struct VirtualResult {
  VirtualPhase prompt;      // all sequences'
  VirtualPhase generation;  // steps of a token a sequence
  double ttft_seconds = 0;  // until the last sequence has its first token

  double seconds() const { return prompt.seconds + generation.seconds; }
  double ceiling_seconds() const { return prompt.ceiling_seconds + generation.ceiling_seconds; }
};

// The routing is of the model's MoE layers: CHECKed. Throws Error if the policy is unknown or the routing
// ends.
VirtualResult RunVirtually(const SimulatedModel& model, const HardwareProfile& hardware,
                           std::string_view policy, int64_t num_slots, TokenRouting& routing,
                           const VirtualScenario& scenario);

}  // namespace fiddler
