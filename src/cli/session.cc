#include "cli/session.h"

#include <chrono>

#include "base/error.h"
#include "base/units.h"
#include "cli/terminal.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

DType DummyDType(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  return DType::kBF16;  // CLI11 let nothing else through
}

Model Load(const ModelOptions& options, int threads) {
  TerminalProgress progress;
  ModelConfig config = ReadModelConfig(ResolveModel(options.model), options.ignored_fields);
  const auto fill_threads = static_cast<unsigned>(threads);
  if (options.dummy_weights) {
    return MakeDummyModel(std::move(config), *options.dummy_weights, DummyDType(options.dummy_dtype),
                          progress, fill_threads);
  }
  return LoadModel(std::move(config), progress, fill_threads);
}

std::string FormatCount(int64_t count) {
  const auto number = static_cast<double>(count);
  return number < 1e9 ? fmt::format("{:.1f} M", number / 1e6) : fmt::format("{:.1f} B", number / 1e9);
}

}  // namespace

void ModelOptions::Register(CLI::App& verb) {
  verb.add_option("MODEL", model, "Hugging Face model directory, config.json, built-in geometry, or demo")
      ->required();
  verb.add_option("--dummy-weights", dummy_weights,
                  "make up random weights from this seed instead of reading them")
      ->type_name("SEED");
  verb.add_option("--dummy-dtype", dummy_dtype, "type of made-up weights")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  verb.add_option("--ignore-config-field", ignored_fields,
                  "run although config.json has this unsupported field")
      ->type_name("NAME")
      ->allow_extra_args(false);
  verb.add_option("-t,--threads", threads, "threads to compute with (default: one for each core)")
      ->check(CLI::Range(1, 1024));
}

std::string ResolveModel(const std::string& model) {
  if (model != "demo") return model;
  std::error_code status;
  const fs::path binary = fs::read_symlink("/proc/self/exe", status);
  // Beside the binary (installed), or up the tree of a build folder: build/release/fiddler.
  for (const char* place : {"../share/fiddler/models/demo", "../../models/demo", "../models/demo"}) {
    const fs::path path = (binary.parent_path() / place).lexically_normal();
    if (fs::exists(path / "config.json", status)) return path.string();
  }
  throw Error(
      "demo: expected the demo model in ../../models/demo or ../share/fiddler/models/demo of {}, got neither",
      binary.parent_path().string());
}

Session::Session(const ModelOptions& options)
    : kernels_(BestKernels()),
      topology_(DiscoverTopology()),
      pool_(options.threads > 0 ? options.threads : topology_.DefaultThreads(), topology_) {
  const auto start = std::chrono::steady_clock::now();
  model_ = Load(options, pool_.num_threads());
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Tokenizer Session::LoadTokenizer() const {
  const fs::path file = model_.config.directory / "tokenizer.json";
  std::error_code status;
  if (model_.config.directory.empty() || !fs::exists(file, status)) {
    throw Error(
        "{}: expected a tokenizer.json beside the weights, got none: --prompt-ids or --ids takes token ids",
        model_.config.name);
  }
  return Tokenizer::FromFile(file);
}

std::string Session::Description() const {
  const ModelSpec& spec = model_.spec();
  const ParameterCount count = CountParameters(spec);
  const DType dtype = model_.weights.embedding.dtype;
  return fmt::format("{} ({}): {} parameters, {} active, {} {}, ready in {:.2f} s; {}, {} thread{}",
                     model_.config.name, model_.config.architecture->class_name, FormatCount(count.total),
                     FormatCount(count.active),
                     FormatBytes(static_cast<uint64_t>(count.total) * DTypeBytes(dtype)), DTypeName(dtype),
                     load_seconds_, kernels_.isa, pool_.num_threads(), pool_.num_threads() == 1 ? "" : "s");
}

}  // namespace fiddler
