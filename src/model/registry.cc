#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/arch/families.h"
#include "model/architecture.h"
#include "model/config_reader.h"

namespace fiddler {
namespace {

constexpr std::array<const Architecture*, 4> kArchitectures = {
    &kMixtral,
    &kOlmoe,
    &kQwen2Moe,
    &kQwen3Moe,
};

std::string JoinNames(std::string_view Architecture::*name) {
  std::string names;
  for (const Architecture* architecture : kArchitectures) {
    if (!names.empty()) names += ", ";
    names += architecture->*name;
  }
  return names;
}

}  // namespace

std::span<const Architecture* const> Architectures() { return kArchitectures; }

const Architecture& FindArchitecture(ConfigReader& config) {
  const std::vector<std::string> classes = config.Strings("architectures");
  const bool by_class = !classes.empty();
  const std::string found = by_class ? classes.front() : config.String("model_type", "");
  const auto name = by_class ? &Architecture::class_name : &Architecture::model_type;
  for (const Architecture* architecture : kArchitectures) {
    if (architecture->*name != found) continue;
    config.MustBe("model_type", architecture->model_type);
    return *architecture;
  }
  const std::string_view field = by_class ? "architectures" : "model_type";
  if (found.empty()) {
    throw Error("{}: {}: expected one of {}, got nothing: the field is missing", config.source(), field,
                JoinNames(name));
  }
  config.Fail(field, "one of " + JoinNames(name), found);
}

ModelSpec ParseConfig(const Json& config, const std::string& source, std::span<const std::string> tolerated) {
  ConfigReader reader(config, source, tolerated);
  const Architecture& architecture = FindArchitecture(reader);
  ModelSpec spec = architecture.parse(reader);
  spec.family = architecture.model_type;
  reader.RefuseUnread();
  return spec;
}

std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert) {
  return fmt::format(fmt::runtime(pattern), fmt::arg("layer", layer), fmt::arg("expert", expert));
}

}  // namespace fiddler
