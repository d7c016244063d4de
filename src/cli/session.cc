#include "cli/session.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>

#include "base/error.h"
#include "base/memory.h"
#include "base/units.h"
#include "cli/terminal.h"
#include "engine/expert_file.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

DType DummyDType(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  return DType::kBF16;  // CLI11 let nothing else through
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
  RegisterQuantization(verb, quantization);
  verb.add_option("--arithmetic", arithmetic,
                  "fast: activations rounded to match the weights (bf16 with bf16, int8 with int8 and int4); "
                  "exact: float32")
      ->check(CLI::IsMember({"fast", "exact"}))
      ->capture_default_str();
  verb.add_option("-t,--threads", threads, "threads to compute with (default: one for each core)")
      ->check(CLI::Range(1, 1024));
  verb.add_option("--ram", ram,
                  "memory to stay within: experts for which there is no room are read from disk")
      ->type_name("SIZE");
  verb.add_option("--packed-file", packed_file,
                  "where experts on disk lie, written where it is missing (default: in ~/.cache/fiddler)")
      ->type_name("FILE");
}

void RegisterQuantization(CLI::App& verb, std::string& quantization) {
  verb.add_option("--quant", quantization, "round the weights to 8 or 4 bits while loading")
      ->check(CLI::IsMember({"int8", "int4"}));
}

Quantization ParseQuantization(const std::string& name) {
  if (name == "int8") return Quantization::kInt8;
  if (name == "int4") return Quantization::kInt4;
  return Quantization::kNone;  // CLI11 let nothing else through
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
    : options_(options),
      kernels_(BestKernels()),
      topology_(DiscoverTopology()),
      pool_(options.threads > 0 ? options.threads : topology_.DefaultThreads(), topology_) {
  if (!options.ram.empty()) ram_ = ParseBytes(options.ram, "--ram");
  stored_.config = ReadModelConfig(ResolveModel(options.model), options.ignored_fields);
}

void Session::Load(std::span<const ForwardLimits> engines, const DeviceBudget& device) {
  const auto start = std::chrono::steady_clock::now();
  stored_ = options_.dummy_weights ? MakeDummyModel(std::move(stored_.config), *options_.dummy_weights,
                                                    DummyDType(options_.dummy_dtype))
                                   : OpenModel(std::move(stored_.config));
  TerminalProgress progress;
  packed_ = PackModel(stored_,
                      {.format = {.quantization = quantization()}, .experts = PlaceExperts(engines, device)},
                      pool_, progress);
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Note("{}", Description());
  if (!stored_.unused_tensors.empty()) {
    Note("note: {} tensors of the checkpoint are not used by {}, the first: {}",
         stored_.unused_tensors.size(), config().architecture->class_name, stored_.unused_tensors.front());
  }
}

PackedModel Session::LoadAs(Quantization quantization) {
  TerminalProgress progress;
  return PackModel(stored_, {.format = {.quantization = quantization}}, pool_, progress);
}

std::optional<ExpertFileOptions> Session::PlaceExperts(std::span<const ForwardLimits> engines,
                                                       const DeviceBudget& device) {
  const PackFormat format = {.quantization = quantization()};
  uint64_t budget = UsableMemoryBytes();  // may be UINT64_MAX: the system does not say
  budget += std::min(ResidentBytes(), std::numeric_limits<uint64_t>::max() - budget);
  if (ram_) budget = *ram_;
  uint64_t engine_bytes = 0;
  if (device.bytes > 0) {
    engine_bytes = DeviceEngineBytes(stored_, format, kernels_, pool_, engines.front(), device);
    engines = engines.subspan(1);
  }
  engine_bytes += EngineBytes(stored_, format, kernels_, pool_, engines);
  const HostPlan plan = PlanHost(stored_, format, engine_bytes, budget);
  if (!ram_ && (plan.all_in_memory() || !plan.fits())) return std::nullopt;  // PackModel says what would fit
  constexpr uint64_t kMebibyte = uint64_t{1} << 20;
  constexpr uint64_t kSlack = 2;  // MiB: what is resident now differs a little from run to run
  if (plan.smallest_bytes > budget) {
    throw Error(
        "--ram: expected at least {}MiB for {} ({} that every token needs, {} to compute with, {} an "
        "expert, {} for the program itself), got {}",
        plan.smallest_bytes / kMebibyte + kSlack, config().name, FormatBytes(plan.dense_bytes),
        FormatBytes(engine_bytes), FormatBytes(plan.slot_bytes), FormatBytes(ProcessBytes()),
        FormatBytes(budget));
  }
  if (plan.all_in_memory()) return std::nullopt;
  ExpertFileOptions experts = {.file = options_.packed_file, .slots = plan.expert_slots};
  if (experts.file.empty()) experts.file = DefaultExpertFile(stored_, format);
  std::string fitting;
  for (const Quantization smaller : {Quantization::kInt8, Quantization::kInt4}) {
    const PackFormat rounded = {.quantization = smaller};
    if (smaller <= quantization() || !fitting.empty()) continue;
    if (PlanHost(stored_, rounded, engine_bytes, budget).all_in_memory()) {
      fitting = fmt::format("; with --quant {} all would fit", QuantizationName(smaller));
    }
  }
  Note("note: room for {} of {} experts, {} of {}; the others come from {}{}", plan.expert_slots,
       plan.num_experts, FormatBytes(static_cast<uint64_t>(plan.expert_slots) * plan.slot_bytes),
       FormatBytes(plan.expert_bytes), experts.file.string(), fitting);
  return experts;
}

std::unique_ptr<Tokenizer> Session::FindTokenizer() const {
  const fs::path file = config().directory / "tokenizer.json";
  std::error_code status;
  if (config().directory.empty() || !fs::exists(file, status)) return nullptr;
  return std::make_unique<Tokenizer>(Tokenizer::FromFile(file));
}

std::unique_ptr<Tokenizer> Session::RequireTokenizer() const {
  std::unique_ptr<Tokenizer> tokenizer = FindTokenizer();
  if (!tokenizer) {
    if (config().directory.empty()) {
      throw Error(
          "{}: expected a folder with weights and tokenizer.json, got a geometry: --dummy-weights SEED makes "
          "up weights, and --prompt-ids (run) or --ids (eval, profile) take the place of text",
          config().name);
    }
    throw Error(
        "{}: expected a tokenizer.json beside the weights, got none: --prompt-ids (run) or --ids (eval, "
        "profile) take the place of text",
        config().name);
  }
  return tokenizer;
}

std::string Session::Description() const {
  const ParameterCount count = CountParameters(spec());
  const std::string_view format = quantization() == Quantization::kNone
                                      ? FormatName(packed_.weights.embedding.format)
                                      : QuantizationName(quantization());
  return fmt::format("{} ({}): {} parameters, {} active, {} {}, ready in {:.2f} s; {}, {} thread{}",
                     config().name, config().architecture->class_name, FormatCount(count.total),
                     FormatCount(count.active), FormatBytes(TotalBytes(packed_.weights)), format,
                     load_seconds_, kernels_.isa, pool_.num_threads(), pool_.num_threads() == 1 ? "" : "s");
}

std::vector<int32_t> ParseTokenIds(std::string_view text, std::string_view source, int64_t vocab_size) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<int32_t> ids;
  for (size_t begin = text.find_first_not_of(kSeparators); begin != std::string_view::npos;
       begin = text.find_first_not_of(kSeparators, begin)) {
    const std::string_view word = text.substr(begin, text.find_first_of(kSeparators, begin) - begin);
    int32_t id = -1;
    const auto [end, status] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (status != std::errc() || end != word.data() + word.size() || id < 0 || id >= vocab_size) {
      throw Error("{}: token {}: expected an id from 0 to {}, got '{}'", source, ids.size(), vocab_size - 1,
                  word);
    }
    ids.push_back(id);
    begin += word.size();
  }
  if (ids.empty()) throw Error("{}: expected token ids, got none", source);
  return ids;
}

}  // namespace fiddler
