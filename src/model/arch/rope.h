// RoPE parameters from config.json, in both spellings: rope_theta + rope_scaling (transformers 4) and
// rope_parameters (transformers 5). Formulae: transformers/modeling_rope_utils.py.
#pragma once

#include "model/config_reader.h"
#include "model/spec.h"

namespace fiddler {

// Throws Error naming the field for a kind of RoPE that is not supported.
RopeSpec ParseRope(ConfigReader& config, int64_t head_dim, int64_t max_positions, double default_theta);

}  // namespace fiddler
