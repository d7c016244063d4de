// What every verb begins with: the options that name a model and the machine to run it on, and the loaded
// result.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
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

// A model in memory and the threads to run it. Nothing moves after construction: engines look into it.
class Session {
 public:
  explicit Session(const ModelOptions& options);  // loads; throws Error
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Model& model() const { return model_; }
  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  double load_seconds() const { return load_seconds_; }

  // The tokenizer beside the weights. Throws Error if there is none.
  Tokenizer LoadTokenizer() const;

  // "Mixtral demo: 14.9 M parameters (5.2 M active), 28.4 MiB bf16, loaded in 0.05 s; avx512, 2 threads"
  std::string Description() const;

 private:
  const CpuKernels& kernels_;
  const Topology topology_;
  ThreadPool pool_;
  Model model_;
  double load_seconds_ = 0;
};

}  // namespace fiddler
