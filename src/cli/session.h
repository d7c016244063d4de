// What every verb begins with: the options that name a model and the machine to run it on, and the loaded
// result.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace fiddler {

struct ModelOptions {
  std::string model;
  std::optional<uint64_t> dummy_weights;  // seed
  std::string dummy_dtype = "bf16";
  std::vector<std::string> ignored_fields;
  int threads = 0;  // 0: one for each core

  void Register(CLI::App& verb);
};

// A directory for a MODEL argument: "demo" is the model shipped with the binary, everything else is taken as
// it is.
std::string ResolveModel(const std::string& model);

// A model and the threads to run it. Construction reads config.json only, so that everything cheap (options,
// prompt) is checked before Load() brings the weights. Nothing moves after Load(): engines look into it.
class Session {
 public:
  explicit Session(const ModelOptions& options);  // throws Error
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void Load();  // once; throws Error

  const ModelSpec& spec() const { return model_.spec(); }
  const ModelConfig& config() const { return model_.config; }
  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  const Model& model() const { return model_; }  // its weights are there after Load()
  double load_seconds() const { return load_seconds_; }

  // The tokenizer beside the weights; nothing if there is none. Throws Error if it is broken.
  std::unique_ptr<Tokenizer> FindTokenizer() const;
  std::unique_ptr<Tokenizer> RequireTokenizer() const;  // throws Error if there is none

 private:
  std::string Description() const;

  const ModelOptions& options_;
  const CpuKernels& kernels_;
  const Topology topology_;
  ThreadPool pool_;
  Model model_;
  double load_seconds_ = 0;
};

// Token ids separated by commas or white space. Throws Error naming `source` for anything else.
std::vector<int32_t> ParseTokenIds(std::string_view text, std::string_view source, int64_t vocab_size);

}  // namespace fiddler
