// What tests of config.json share: the published ones (tests/oracle/configs), and changes to them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "io/test_files.h"
#include "model/architecture.h"

namespace fiddler {

inline Json Published(std::string_view name) {
  const std::filesystem::path path =
      std::filesystem::path(FIDDLER_SOURCE_DIR) / "tests/oracle/configs" / fmt::format("{}.json", name);
  return ParseJson(ReadFile(path, 1 << 20), path.string());
}

inline ModelSpec Parse(const Json& config) { return ParseConfig(config, "config.json"); }

inline std::string ErrorOfParsing(const Json& config) {
  return ErrorOf([&] { Parse(config); });
}

// The published config with some fields changed; a field set to "absent" is taken out.
inline Json With(std::string_view name, const Json& changes) {
  Json config = Published(name);
  config.update(changes);
  for (const auto& [field, value] : changes.items()) {
    if (value == "absent") config.erase(field);
  }
  return config;
}

inline constexpr std::string_view kMixtralName = "mixtral-8x7b";
inline constexpr std::string_view kOlmoeName = "olmoe-1b-7b";
inline constexpr std::string_view kQwen2Name = "qwen1.5-moe-a2.7b";
inline constexpr std::string_view kQwen3Name = "qwen3-30b-a3b";
inline constexpr std::string_view kNames[] = {kMixtralName, kOlmoeName, kQwen2Name, kQwen3Name};

}  // namespace fiddler
