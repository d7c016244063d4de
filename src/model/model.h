// A model: what it computes and where its weights are. No matrix is read: engine/pack_model.h does that.
//
// A model is named by a Hugging Face directory (config.json, *.safetensors) or by a built-in geometry
// ("mixtral-8x7b"): the latter, and any config.json, run on made-up weights too.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"
#include "model/architecture.h"
#include "model/spec.h"
#include "model/weights.h"

namespace fiddler {

struct ModelConfig {
  std::string name;                 // for people: the directory or the geometry
  std::filesystem::path directory;  // empty for a built-in geometry
  ModelSpec spec;
  const Architecture* architecture = nullptr;
  DType stored_dtype = DType::kBF16;  // of the weights, as config.json says; BF16 if it does not
};

struct Model {
  ModelConfig config;
  std::unique_ptr<WeightSource> source;  // of `weights`
  ModelWeights weights;
  std::vector<std::string> unused_tensors;  // in the checkpoint, but nothing this model computes with

  const ModelSpec& spec() const { return config.spec; }
};

// Built-in geometries: published models and cuts of them, by name.
std::vector<std::string_view> GeometryNames();

// Reads `model` (a directory, a config.json or the name of a geometry); no weights. Fields of config.json in
// `tolerated` are not refused. Throws Error.
ModelConfig ReadModelConfig(const std::string& model, std::span<const std::string> tolerated = {});

// Opens the checkpoint beside the config and finds every tensor. Throws Error.
Model OpenModel(ModelConfig config);

// Weights of one type made up from a seed (io/dummy_weights.h).
Model MakeDummyModel(ModelConfig config, uint64_t seed, DType dtype);

}  // namespace fiddler
