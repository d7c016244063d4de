#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/arch/families.h"
#include "model/architecture.h"

namespace fiddler {
namespace {

constexpr std::array<const Architecture*, 4> kArchitectures = {
    &kMixtral,
    &kOlmoe,
    &kQwen2Moe,
    &kQwen3Moe,
};

std::string SupportedNames() {
  std::string names;
  for (const Architecture* architecture : kArchitectures) {
    if (!names.empty()) names += ", ";
    names += architecture->class_name;
  }
  return names;
}

}  // namespace

std::span<const Architecture* const> Architectures() { return kArchitectures; }

const Architecture& FindArchitecture(ConfigReader& config) {
  const std::vector<std::string> classes = config.Strings("architectures");
  const std::string model_type = config.String("model_type", "");
  for (const Architecture* architecture : kArchitectures) {
    const bool class_fits = classes.empty() || classes.front() == architecture->class_name;
    if (class_fits && model_type == architecture->model_type) return *architecture;
  }
  if (classes.empty() && model_type.empty()) {
    throw Error("{}: architectures: expected one of {}, got nothing: the field is missing", config.source(),
                SupportedNames());
  }
  throw Error("{}: architectures: expected one of {}, got {} (model_type '{}')", config.source(),
              SupportedNames(), classes.empty() ? "nothing" : classes.front(), model_type);
}

ModelSpec ParseConfig(const Json& config, const std::string& source, std::span<const std::string> tolerated) {
  ConfigReader reader(config, source);
  const Architecture& architecture = FindArchitecture(reader);
  ModelSpec spec = architecture.parse(reader);
  spec.family = architecture.model_type;
  reader.RefuseUnread(tolerated);
  return spec;
}

std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert) {
  return fmt::format(fmt::runtime(pattern), fmt::arg("layer", layer), fmt::arg("expert", expert));
}

}  // namespace fiddler
