// The JSON type by name only, for headers: its definition costs every file that includes it a second to
// compile.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace fiddler {

using Json = nlohmann::json;

}  // namespace fiddler
