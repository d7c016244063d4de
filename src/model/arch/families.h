// The model families built in; model/registry.cc lists them.
#pragma once

#include "model/architecture.h"

namespace fiddler {

extern const Architecture kMixtral;
extern const Architecture kOlmoe;
extern const Architecture kQwen2Moe;
extern const Architecture kQwen3Moe;

}  // namespace fiddler
