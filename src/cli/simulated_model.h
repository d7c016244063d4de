// What a simulation knows of a model, from its config alone: sizes of packed matrices, no weights.
#pragma once

#include <cstdint>

#include "engine/pack_layout.h"
#include "model/model.h"
#include "sim/virtual_run.h"

namespace fiddler {

// Throws Error if the model has no experts.
SimulatedModel DescribeForSimulation(const Model& model, const PackedWeights& weights);

}  // namespace fiddler
