#include "cli/simulation.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/units.h"
#include "cli/session.h"
#include "cli/simulated_model.h"
#include "engine/device_forward.h"
#include "engine/engine.h"
#include "engine/host_forward.h"
#include "experts/policy.h"

namespace fiddler {
namespace {

HardwareProfile WithGpuMemory(HardwareProfile hardware, const std::string& gpu_memory) {
  if (gpu_memory.empty()) return hardware;
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
  if (options.scenario == "batch") scenario.sequences = options.batch;
  if (options.scenario == "beam") {
    scenario.sequences = options.beam;
    scenario.is_beam = true;
  }
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

// What the engine would take (DeviceMemoryNeeds, HostForward::NeedsOf), and what a GPU's libraries do.
MemoryNeeds NeedsOf(const Model& model, const PackedWeights& weights, const VirtualScenario& scenario,
                    bool has_gpu) {
  constexpr uint64_t kLibraries = uint64_t{400} << 20;  // a CUDA context with its kernels
  const int64_t positions = scenario.prompt_tokens + scenario.generated_tokens;
  const ForwardLimits limits = LimitsOf({.max_positions = positions,
                                         .max_sequences = scenario.sequences,
                                         .max_batch_tokens = scenario.chunk_tokens});
  PackedModel packed;  // without data
  packed.spec = model.spec();
  packed.weights = weights;
  ThreadPool pool(1, DiscoverTopology());
  if (has_gpu) {
    MemoryNeeds needs = DeviceMemoryNeeds(packed, BestKernels(), pool, limits);
    needs.device_workspace_bytes += kLibraries;
    return needs;
  }
  const HostForward::Needs host = HostForward::NeedsOf(packed, BestKernels(), pool, limits);
  MemoryNeeds needs;
  needs.host_weight_bytes = TotalBytes(weights);
  needs.host_workspace_bytes = host.kv_bytes + host.workspace_bytes;
  return needs;
}

}  // namespace

void SimulationOptions::Register(CLI::App& verb) {
  verb.add_option("MODEL", model, "Hugging Face model directory, config.json, or built-in geometry")
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
  count("--beam", beam, "width of the beam");
  count("--batch", batch, "sequences of a batch");
  count("--chunk", chunk_tokens, "tokens of a prompt in a step");
  verb.add_option("--seed", seed, "of the made-up routing")->capture_default_str();
  verb.add_flag("--serial", serial, "CPU, copies and GPU one after the other");
  verb.add_option("--ignore-config-field", ignored_fields, "accept this unsupported field of config.json")
      ->type_name("NAME")
      ->allow_extra_args(false);
  RegisterQuantization(verb, quantization);
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
  const Model model =
      MakeDummyModel(ReadModelConfig(ResolveModel(options.model), options.ignored_fields), 0, DType::kBF16);
  const PackLayout layout = LayOut(model, {.quantization = ParseQuantization(options.quantization)});
  const SimulatedModel simulated = DescribeForSimulation(model, layout.weights);

  const HardwareProfile& hardware = simulation.hardware;
  simulation.needs = NeedsOf(model, layout.weights, scenario, hardware.has_gpu());
  simulation.memory = PlanMemory(
      simulation.needs, {.gpu_memory_bytes = hardware.gpu_memory_bytes, .ram_bytes = hardware.ram_bytes});
  if (!simulation.memory.fits) return simulation;

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
