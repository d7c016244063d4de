#include "cli/simulation.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/units.h"
#include "cli/session.h"
#include "cli/simulated_model.h"
#include "engine/device_forward.h"
#include "engine/engine.h"
#include "engine/host_forward.h"
#include "engine/host_memory.h"
#include "experts/policy.h"

namespace fiddler {
namespace {

HardwareProfile WithGpuMemory(HardwareProfile hardware, const std::string& gpu_memory) {
  if (gpu_memory.empty()) return hardware;
  if (!hardware.has_gpu()) {
    throw Error("--gpu-memory: expected hardware with a GPU (--hardware), got {}", hardware.name);
  }
  const uint64_t bytes = ParseBytes(gpu_memory, "--gpu-memory");
  if (bytes == 0 || bytes > hardware.gpu_memory_bytes) {
    throw Error("--gpu-memory: expected at most the {} of {}, got {}", FormatBytes(hardware.gpu_memory_bytes),
                hardware.name, gpu_memory);
  }
  hardware.gpu_memory_bytes = bytes;
  return hardware;
}

VirtualScenario ChooseScenario(const SimulationOptions& options) {
  VirtualScenario scenario = {.prompt_tokens = options.prompt_tokens,
                              .generated_tokens = options.generated_tokens,
                              .chunk_tokens = options.chunk_tokens,
                              .overlap = !options.serial};
  if (options.scenario == "prefill") scenario.generated_tokens = 0;
  const bool is_beam = options.scenario == "beam";
  const bool is_batch = options.scenario == "batch";
  if (options.beam && !is_beam) throw Error("--beam: expected --scenario beam, got {}", options.scenario);
  if (options.batch && !is_batch) throw Error("--batch: expected --scenario batch, got {}", options.scenario);
  if (is_batch) scenario.sequences = options.batch.value_or(8);
  if (is_beam) scenario.sequences = options.beam.value_or(4);
  scenario.is_beam = is_beam;
  return scenario;
}

// The routing of a published model with as many experts, else a small one's; never a claim about this model.
RoutingStatistics ChooseStatistics(const SimulationOptions& options, const SimulatedModel& model) {
  const RoutingStatistics* found = &PublishedRoutings().front().statistics;
  if (!options.routing.empty()) {
    found = FindPublishedRouting(options.routing);
    if (found == nullptr) {
      std::string names;
      for (const PublishedRouting& published : PublishedRoutings())
        names += (names.empty() ? "" : ", ") + std::string(published.model);
      throw Error("--routing: expected one of {}, got '{}'", names, options.routing);
    }
  } else {
    for (const PublishedRouting& published : PublishedRoutings()) {
      const RoutingStatistics& statistics = published.statistics;
      if (statistics.num_experts == model.num_experts && statistics.top_k == model.top_k) found = &statistics;
    }
  }
  RoutingStatistics statistics = *found;
  statistics.num_experts = model.num_experts;
  statistics.top_k = model.top_k;
  return statistics;
}

RoutingTrace ReadTraceFor(const SimulationOptions& options, const SimulatedModel& model, int64_t moe_layers) {
  RoutingTrace trace = ReadRoutingTrace(options.trace);
  const RoutingGeometry& got = trace.geometry();
  if (got != RoutingGeometry{moe_layers, model.num_experts, model.top_k}) {
    throw Error("{}: expected a trace of {} layers with {} of {} experts, got {} layers with {} of {}",
                options.trace, moe_layers, model.top_k, model.num_experts, got.num_layers, got.top_k,
                got.num_experts);
  }
  return trace;
}

// What the engine would take (DeviceMemoryNeeds, HostForward::NeedsOf), what a GPU's libraries do, and the
// process itself.
MemoryNeeds NeedsOf(const PackedModel& shell, const ForwardLimits& limits, bool has_gpu) {
  constexpr uint64_t kLibraries = uint64_t{400} << 20;  // a CUDA context with its kernels
  constexpr uint64_t kProcess = uint64_t{48} << 20;     // code, stacks, what else nobody counts
  ThreadPool pool(1, DiscoverTopology());
  MemoryNeeds needs;
  if (has_gpu) {
    needs = DeviceMemoryNeeds(shell, BestKernels(), pool, limits);
    needs.device_workspace_bytes += kLibraries;
  } else {
    const HostForward::Needs host = HostForward::NeedsOf(shell, BestKernels(), pool, limits);
    needs.host_weight_bytes = TotalBytes(shell.weights);
    needs.host_workspace_bytes = host.kv_bytes + host.workspace_bytes;
  }
  needs.host_workspace_bytes += kProcess;
  return needs;
}

// With its files, if they are there; else made up, of the type that config.json names.
Model FindModel(const SimulationOptions& options) {
  ModelConfig config = ReadModelConfig(ResolveModel(options.model), options.ignored_fields);
  const auto is_weights = [](const std::filesystem::directory_entry& entry) {
    return entry.path().extension() == ".safetensors";
  };
  if (!config.directory.empty() &&
      std::ranges::any_of(std::filesystem::directory_iterator(config.directory), is_weights)) {
    return OpenModel(std::move(config));
  }
  const DType dtype = config.stored_dtype;
  return MakeDummyModel(std::move(config), 0, dtype);
}

}  // namespace

void SimulationOptions::Register(CLI::App& verb) {
  verb.add_option("MODEL", model, "Hugging Face model directory, config.json, built-in geometry, or demo")
      ->required();
  std::vector<std::string> policies;
  for (const std::string_view name : PolicyNames()) policies.emplace_back(name);
  verb.add_option("--policy", policy, "who computes what")
      ->check(CLI::IsMember(policies))
      ->capture_default_str();
  verb.add_option("--gpu-memory", gpu_memory, "use no more of the GPU's memory")->type_name("SIZE");
  CLI::Option* replayed =
      verb.add_option("--trace", trace, "recorded routing to replay")->check(CLI::ExistingFile);
  verb.add_option("--routing", routing, "make up routing like that of this published model")
      ->type_name("NAME")
      ->excludes(replayed);
  verb.add_option("--scenario", scenario, "what to run")
      ->check(CLI::IsMember({"single", "prefill", "beam", "batch"}))
      ->capture_default_str();
  const auto count = [&](const char* name, int64_t& value, const char* help) {
    verb.add_option(name, value, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  count("--prompt", prompt_tokens, "tokens of a prompt");
  count("--gen", generated_tokens, "tokens to generate");
  verb.add_option("--beam", beam, "width of the beam (default: 4)")->check(CLI::Range(1, 1 << 20));
  verb.add_option("--batch", batch, "sequences of a batch (default: 8)")->check(CLI::Range(1, 1 << 20));
  count("--chunk", chunk_tokens, "tokens of a prompt in a step");
  verb.add_option("--seed", seed, "of the made-up routing")->capture_default_str();
  verb.add_flag("--serial", serial, "CPU, copies and GPU one after the other");
  verb.add_option("--ignore-config-field", ignored_fields, "accept this unsupported field of config.json")
      ->type_name("NAME")
      ->allow_extra_args(false);
  RegisterQuantization(verb, quantization);
}

std::string HardwareHelp() {
  std::string help = "one of";
  for (const HardwareProfile& hardware : BuiltinHardware()) help += " " + hardware.name + ",";
  return help + " or FILE.json (plan/hardware.h)";
}

HardwareProfile ChooseHardware(const std::string& name_or_file) {
  const bool is_file = name_or_file.ends_with(".json") || name_or_file.find('/') != std::string::npos;
  return is_file ? ReadHardware(name_or_file) : FindHardware(name_or_file);
}

Simulation RunSimulation(const SimulationOptions& options, const HardwareProfile& profile) {
  Simulation simulation;
  simulation.hardware = WithGpuMemory(profile, options.gpu_memory);
  simulation.scenario = ChooseScenario(options);
  const VirtualScenario& scenario = simulation.scenario;
  const HardwareProfile& hardware = simulation.hardware;
  const Model model = FindModel(options);
  const int64_t positions = scenario.prompt_tokens + scenario.generated_tokens;
  if (positions > model.spec().max_positions) {
    throw Error("--prompt and --gen: expected at most {} tokens together (max_position_embeddings), got {}",
                model.spec().max_positions, positions);
  }
  const PackFormat format = {.quantization = ParseQuantization(options.quantization)};
  const PackedModel shell = WithoutWeights(model, format);
  const SimulatedModel simulated = DescribeForSimulation(model, shell.weights);
  const ForwardLimits limits = LimitsOf({.max_positions = positions,
                                         .max_sequences = scenario.sequences,
                                         .max_batch_tokens = scenario.chunk_tokens});
  simulation.needs = NeedsOf(shell, limits, hardware.has_gpu());
  simulation.memory = PlanMemory(
      simulation.needs, {.gpu_memory_bytes = hardware.gpu_memory_bytes, .ram_bytes = hardware.ram_bytes});
  if (!simulation.memory.fits) {
    if (simulation.memory.ram_peak_bytes > hardware.ram_bytes) {
      simulation.disk = PlanHost(model, format, simulation.needs.host_workspace_bytes, hardware.ram_bytes);
    }
    return simulation;
  }

  int64_t moe_layers = 0;
  for (const SimulatedModel::Layer& layer : simulated.layers) moe_layers += layer.is_moe ? 1 : 0;
  std::optional<RoutingTrace> trace;
  std::unique_ptr<TokenRouting> routing;
  if (!options.trace.empty()) {
    trace = ReadTraceFor(options, simulated, moe_layers);
    routing = ReplayRouting(*trace);
  } else {
    RoutingStatistics statistics = ChooseStatistics(options, simulated);
    if (scenario.is_beam) statistics.conversation_tokens *= scenario.sequences;  // a step has so many tokens
    routing = MakeUpRouting(statistics, moe_layers, scenario.is_beam ? 1 : scenario.sequences, options.seed);
  }
  simulation.result =
      RunVirtually(simulated, hardware, options.policy, simulation.memory.num_slots, *routing, scenario);
  return simulation;
}

}  // namespace fiddler
