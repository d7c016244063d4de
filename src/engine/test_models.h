// For tests only: models packed and ready to run.
#pragma once

#include <filesystem>

#include "base/source_testing.h"
#include "base/topology.h"
#include "engine/pack_model.h"

namespace fiddler {

inline PackedModel Pack(const Model& model, const PackFormat& format = {}) {
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  return PackModel(model, {.format = format, .usable_memory = {}}, pool, progress);
}

// With experts in `file`, `slots` of them in memory at a time.
inline PackedModel PackToDisk(const Model& model, const PackFormat& format, const std::filesystem::path& file,
                              int64_t slots, ThreadPool& pool) {
  NoProgress progress;
  return PackModel(model, {.format = format, .experts = {{.file = file, .slots = slots}}}, pool, progress);
}

inline PackedModel LoadPacked(const std::filesystem::path& directory, const PackFormat& format = {}) {
  return Pack(OpenModel(ReadModelConfig(directory.string())), format);
}

inline std::filesystem::path GoldenModel(std::string_view name) {
  return SourceDir() / "tests/oracle/golden" / name / "model";
}

}  // namespace fiddler
