// What a simulation knows of a model, from its config alone: sizes of packed matrices, no weights.
#pragma once

#include <cstdint>

#include "engine/pack_layout.h"
#include "model/model.h"
#include "plan/memory_plan.h"
#include "sim/virtual_run.h"

namespace fiddler {

// Throws Error if the model has no experts.
SimulatedModel DescribeForSimulation(const Model& model, const PackedWeights& weights);

// Of a run whose sequences hold `positions` in all, with prompts in chunks of chunk_tokens; the workspace is
// an estimate.
MemoryNeeds EstimateMemoryNeeds(const Model& model, const PackedWeights& weights, int64_t positions,
                                int64_t chunk_tokens, bool has_gpu);

}  // namespace fiddler
