// What every verb begins with: the options that name a model and the machine to run it on, and the loaded
// result.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "calibrate/calibration.h"
#include "engine/host_memory.h"
#include "engine/pack_model.h"
#include "engine/parallel_ops.h"
#include "kernels/dispatch.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace fiddler {

struct ModelOptions {
  std::string model;
  std::optional<uint64_t> dummy_weights;  // seed
  std::string dummy_dtype = "bf16";
  std::vector<std::string> ignored_fields;
  std::string quantization;  // "int8", "int4"; empty: weights as they are stored
  std::string arithmetic = "fast";
  int threads = 0;          // 0: one for each core
  std::string ram;          // what the process may have; empty: what the machine has left
  std::string packed_file;  // of experts that are not all in memory; empty: in the cache folder

  void Register(CLI::App& verb);
};

// --quant, for verbs that load or describe packed weights.
void RegisterQuantization(CLI::App& verb, std::string& quantization);
Quantization ParseQuantization(const std::string& name);

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

  // Once. `engines`: what the model will be run with, which must fit into memory beside it; the first of them
  // with the device, if there is one. Where not all experts fit, they come from a packed file. Throws Error.
  void Load(std::span<const ForwardLimits> engines, const DeviceBudget& device = {});

  // The same model once more, after Load(), all of it in memory; throws Error.
  PackedModel LoadAs(Quantization quantization);

  const ModelSpec& spec() const { return stored_.spec(); }
  const ModelConfig& config() const { return stored_.config; }
  const CpuKernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  const PackedModel& model() const { return packed_; }  // after Load()
  Quantization quantization() const { return ParseQuantization(options_.quantization); }
  Arithmetic arithmetic() const {
    return options_.arithmetic == "exact" ? Arithmetic::kExact : Arithmetic::kFast;
  }
  HardwareKey hardware_key() const {  // of this machine, without a device
    return DescribeHardware(topology_, pool_.num_threads(), kernels_.isa);
  }
  double load_seconds() const { return load_seconds_; }

  // The tokenizer beside the weights; nothing if there is none. Throws Error if it is broken.
  std::unique_ptr<Tokenizer> FindTokenizer() const;
  std::unique_ptr<Tokenizer> RequireTokenizer() const;  // throws Error if there is none

 private:
  std::string Description() const;
  // Where the experts go; nothing: into memory. Throws Error if the model cannot run at all.
  std::optional<ExpertFileOptions> PlaceExperts(std::span<const ForwardLimits> engines,
                                                const DeviceBudget& device);

  const ModelOptions& options_;
  const CpuKernels& kernels_;
  const Topology topology_;
  ThreadPool pool_;
  Model stored_;  // its weights are found by Load()
  PackedModel packed_;
  std::optional<uint64_t> ram_;  // --ram
  double load_seconds_ = 0;
};

// Token ids separated by commas or white space. Throws Error naming `source` for anything else.
std::vector<int32_t> ParseTokenIds(std::string_view text, std::string_view source, int64_t vocab_size);

}  // namespace fiddler
