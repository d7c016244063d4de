// Published config.json files built into the binary, so that models can be planned for and benchmarked by
// name.
#pragma once

#include <span>
#include <string_view>

namespace fiddler {

struct Geometry {
  std::string_view name;
  std::string_view config_json;
  int layers;      // cut to so many layers; 0: all
  int vocab_size;  // cut to so many tokens; 0: all
};

std::span<const Geometry> Geometries();

}  // namespace fiddler
