#include "model/model.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "io/dummy_weights.h"
#include "model/arch/geometries.h"
#include "model/config_reader.h"

namespace fiddler {
namespace {

ModelConfig FromJson(const Json& json, const std::string& source, std::span<const std::string> tolerated) {
  ModelConfig config;
  ConfigReader reader(json, source);
  config.architecture = &FindArchitecture(reader);
  config.spec = ParseConfig(json, source, tolerated);
  return config;
}

const Geometry* FindGeometry(std::string_view name) {
  for (const Geometry& geometry : Geometries()) {
    if (geometry.name == name) return &geometry;
  }
  return nullptr;
}

ModelConfig FromGeometry(const Geometry& geometry) {
  const std::string name(geometry.name);
  Json json = ParseJson(geometry.config_json, name);
  if (geometry.layers > 0) json["num_hidden_layers"] = geometry.layers;
  if (geometry.vocab_size > 0) {
    json["vocab_size"] = geometry.vocab_size;
    json["bos_token_id"] = nullptr;  // of the uncut vocabulary
    json["eos_token_id"] = nullptr;
  }
  ModelConfig config = FromJson(json, name, {});
  config.name = name;
  return config;
}

std::string JoinGeometryNames() {
  std::string names;
  for (std::string_view name : GeometryNames()) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

// generation_config.json may name more tokens that end a text than config.json does; chat models rely on it.
void AddGenerationEosTokens(const std::filesystem::path& directory, ModelSpec& spec) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  const std::filesystem::path path = directory / "generation_config.json";
  if (!std::filesystem::exists(path)) return;
  const Json json = ParseJson(ReadFile(path, kMaxBytes), path.string());
  ConfigReader reader(json, path.string());
  for (int64_t id : reader.Integers("eos_token_id", 0, spec.vocab_size - 1)) {
    const auto token = static_cast<int32_t>(id);
    if (std::find(spec.eos_tokens.begin(), spec.eos_tokens.end(), token) == spec.eos_tokens.end()) {
      spec.eos_tokens.push_back(token);
    }
  }
}

}  // namespace

std::vector<std::string_view> GeometryNames() {
  std::vector<std::string_view> names;
  for (const Geometry& geometry : Geometries()) names.push_back(geometry.name);
  return names;
}

ModelConfig ReadModelConfig(const std::string& model, std::span<const std::string> tolerated) {
  constexpr size_t kMaxBytes = size_t{64} << 20;
  const std::filesystem::path path(model);
  std::error_code status;
  const bool is_directory = std::filesystem::is_directory(path, status);
  if (!is_directory && !std::filesystem::exists(path, status)) {
    if (const Geometry* geometry = FindGeometry(model)) return FromGeometry(*geometry);
    throw Error(
        "{}: expected a model directory, a config.json or one of demo, {}; got a path that does not exist",
        model, JoinGeometryNames());
  }
  const std::filesystem::path file = is_directory ? path / "config.json" : path;
  if (file.extension() == ".gguf")
    throw Error("{}: expected a Hugging Face model directory, got a GGUF file: not supported yet", model);
  ModelConfig config =
      FromJson(ParseJson(ReadFile(file, kMaxBytes), file.string()), file.string(), tolerated);
  config.name = model;
  if (is_directory) {
    config.directory = path;
    AddGenerationEosTokens(path, config.spec);
  }
  return config;
}

Model LoadModel(ModelConfig config, Progress& progress, unsigned threads) {
  if (config.directory.empty()) {
    throw Error("{}: expected a directory with weights, got a geometry: --dummy-weights SEED makes some up",
                config.name);
  }
  auto checkpoint = std::make_unique<Checkpoint>(Checkpoint::Open(config.directory));
  Model model{.config = std::move(config), .source = nullptr, .weights = {}};
  model.weights = LoadWeights(model.spec(), model.config.architecture->names, *checkpoint);
  checkpoint->Prefetch(progress, threads);
  model.source = std::move(checkpoint);
  return model;
}

Model MakeDummyModel(ModelConfig config, uint64_t seed, DType dtype, Progress& progress, unsigned threads) {
  Model model{.config = std::move(config), .source = nullptr, .weights = {}};
  auto source = std::make_unique<DummyWeights>(seed, dtype, progress, threads);
  progress.Start("making up weights",
                 static_cast<uint64_t>(CountParameters(model.spec()).total) * DTypeBytes(dtype));
  model.weights = LoadWeights(model.spec(), model.config.architecture->names, *source);
  progress.Finish();
  model.source = std::move(source);
  return model;
}

}  // namespace fiddler
