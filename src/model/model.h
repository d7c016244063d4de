// A model ready to run: what it computes and the weights it computes with.
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

#include "base/progress.h"
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
};

struct Model {
  ModelConfig config;
  std::unique_ptr<WeightSource> source;  // owns the bytes `weights` looks at
  ModelWeights weights;
  std::vector<std::string> unused_tensors;  // in the checkpoint, but nothing this model computes with

  const ModelSpec& spec() const { return config.spec; }
};

// Built-in geometries: published models and cuts of them, by name.
std::vector<std::string_view> GeometryNames();

// Reads `model` (a directory, a config.json or the name of a geometry); no weights. Fields of config.json in
// `tolerated` are not refused. Throws Error.
ModelConfig ReadModelConfig(const std::string& model, std::span<const std::string> tolerated = {});

// Opens the checkpoint beside the config and finds every tensor; the weights stay on disk until they are
// used. Throws Error.
Model OpenModel(ModelConfig config);

// OpenModel, and the weights read into memory where they fit. Throws Error.
Model LoadModel(ModelConfig config, Progress& progress, unsigned threads);

// Makes up weights from a seed (io/dummy_weights.h) of one type. Throws Error if memory is short.
Model MakeDummyModel(ModelConfig config, uint64_t seed, DType dtype, Progress& progress, unsigned threads);

}  // namespace fiddler
