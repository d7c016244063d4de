#include "model/model.h"

#include <algorithm>
#include <limits>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "io/checkpoint.h"
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
  std::error_code status;
  if (!std::filesystem::exists(path, status)) return;
  const Json json = ParseJson(ReadFile(path, kMaxBytes), path.string());
  ConfigReader reader(json, path.string());
  for (int64_t id : reader.Integers("eos_token_id", 0, std::numeric_limits<int32_t>::max())) {
    const auto token = static_cast<int32_t>(id);
    const bool can_come = id < spec.vocab_size;
    if (can_come &&
        std::find(spec.eos_tokens.begin(), spec.eos_tokens.end(), token) == spec.eos_tokens.end()) {
      spec.eos_tokens.push_back(token);
    }
  }
}

// Passes everything on and remembers which tensors were asked for; used by one thread.
class RecordingSource final : public WeightSource {
 public:
  explicit RecordingSource(const WeightSource& source) : source_(source) {}

  WeightIdentity Identity() const override { return source_.Identity(); }
  bool Has(std::string_view name) const override { return source_.Has(name); }
  TensorInfo Require(std::string_view name, const Shape& shape) const override {
    required_.emplace(name);
    return source_.Require(name, shape);
  }
  void Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override {
    source_.Read(tensor, offset, out);
  }
  void Prefetch(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override {
    source_.Prefetch(tensor, offset, bytes);
  }
  void Release(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override {
    source_.Release(tensor, offset, bytes);
  }

  bool WasRequired(const std::string& name) const { return required_.contains(name); }

 private:
  const WeightSource& source_;
  mutable std::unordered_set<std::string> required_;
};

// Tables that old versions of transformers stored, and a head that repeats the embeddings, are no loss.
bool IsRedundant(const std::string& name, const ModelSpec& spec, const TensorNames& names) {
  return name.ends_with("rotary_emb.inv_freq") || (spec.tied_embeddings && name == names.head);
}

// What transformers 4 calls torch_dtype, and 5 dtype.
DType StoredDType(const Json& json) {
  for (const char* field : {"dtype", "torch_dtype"}) {
    if (json.value(field, Json()) == "float32") return DType::kF32;
    if (json.value(field, Json()) == "float16") return DType::kF16;
  }
  return DType::kBF16;
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
  const Json json = ParseJson(ReadFile(file, kMaxBytes), file.string());
  ModelConfig config = FromJson(json, file.string(), tolerated);
  config.stored_dtype = StoredDType(json);
  config.name = model;
  if (is_directory) {
    config.directory = path;
    AddGenerationEosTokens(path, config.spec);
  }
  return config;
}

Model OpenModel(ModelConfig config) {
  if (config.directory.empty()) {
    throw Error("{}: expected a directory with weights, got a geometry: --dummy-weights SEED makes some up",
                config.name);
  }
  auto checkpoint = std::make_unique<Checkpoint>(Checkpoint::Open(config.directory));
  RecordingSource recording(*checkpoint);
  Model model{.config = std::move(config), .source = nullptr, .weights = {}, .unused_tensors = {}};
  const TensorNames& names = model.config.architecture->names;
  model.weights = FindWeights(model.spec(), names, recording);
  for (const Checkpoint::StoredTensor& tensor : checkpoint->tensors()) {
    const std::string& name = tensor.view->name;
    if (!recording.WasRequired(name) && !IsRedundant(name, model.spec(), names)) {
      model.unused_tensors.push_back(name);
    }
  }
  model.source = std::move(checkpoint);
  return model;
}

Model MakeDummyModel(ModelConfig config, uint64_t seed, DType dtype) {
  Model model{.config = std::move(config), .source = nullptr, .weights = {}, .unused_tensors = {}};
  auto source = std::make_unique<DummyWeights>(seed, dtype);
  model.weights = FindWeights(model.spec(), model.config.architecture->names, *source);
  model.source = std::move(source);
  return model;
}

}  // namespace fiddler
