// fiddler simulate: how fast a model would run on hardware that need not be at hand, under a policy. Reads
// config.json only. Virtual time: see sim/virtual_run.h for what it knows and what it does not.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/simulated_model.h"
#include "experts/policy.h"

namespace fiddler {
namespace {

struct SimulateOptions {
  std::string model;
  std::vector<std::string> ignored_fields;
  std::string quantization;
  std::string hardware;
  std::string policy = "balanced";
  std::string gpu_memory;
  std::string trace;
  std::string routing;
  std::string scenario = "single";
  int64_t prompt_tokens = 128;
  int64_t generated_tokens = 128;
  int64_t beam = 4;
  int64_t batch = 8;
  int64_t chunk_tokens = 512;
  uint64_t seed = 0;
  bool serial = false;
  bool json = false;
};

HardwareProfile ChooseHardware(const SimulateOptions& options) {
  const bool is_file = options.hardware.ends_with(".json") || options.hardware.find('/') != std::string::npos;
  HardwareProfile hardware = is_file ? ReadHardware(options.hardware) : FindHardware(options.hardware);
  if (options.gpu_memory.empty()) return hardware;
  const uint64_t bytes = ParseBytes(options.gpu_memory, "--gpu-memory");
  if (bytes == 0 || bytes > hardware.gpu_memory_bytes) {
    throw Error("--gpu-memory: expected at most the {} of {}, got {}", FormatBytes(hardware.gpu_memory_bytes),
                hardware.name, options.gpu_memory);
  }
  hardware.gpu_memory_bytes = bytes;
  return hardware;
}

VirtualScenario ChooseScenario(const SimulateOptions& options) {
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
RoutingStatistics ChooseStatistics(const SimulateOptions& options, const SimulatedModel& model) {
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

RoutingTrace ReadTraceFor(const SimulateOptions& options, const SimulatedModel& model, int64_t moe_layers) {
  RoutingTrace trace = ReadRoutingTrace(options.trace);
  const RoutingGeometry& got = trace.geometry();
  if (got != RoutingGeometry{moe_layers, model.num_experts, model.top_k}) {
    throw Error("{}: expected a trace of {} layers with {} of {} experts, got {} layers with {} of {}",
                options.trace, moe_layers, model.top_k, model.num_experts, got.num_layers, got.top_k,
                got.num_experts);
  }
  return trace;
}

struct Simulation {
  HardwareProfile hardware;
  VirtualScenario scenario;
  MemoryPlan memory;
  VirtualResult result;

  // What the user is given, over all the time it takes.
  double tokens() const {
    if (scenario.generated_tokens == 0)
      return static_cast<double>(scenario.prompt_tokens * scenario.sequences);
    return static_cast<double>(scenario.generated_tokens * (scenario.is_beam ? 1 : scenario.sequences));
  }
};

Simulation Run(const SimulateOptions& options) {
  Simulation simulation;
  simulation.hardware = ChooseHardware(options);
  simulation.scenario = ChooseScenario(options);
  const VirtualScenario& scenario = simulation.scenario;
  const Model model =
      MakeDummyModel(ReadModelConfig(ResolveModel(options.model), options.ignored_fields), 0, DType::kBF16);
  const PackLayout layout = LayOut(model, {.quantization = ParseQuantization(options.quantization)});
  const SimulatedModel simulated = DescribeForSimulation(model, layout.weights);

  const int64_t positions = scenario.sequences * (scenario.prompt_tokens + scenario.generated_tokens);
  const HardwareProfile& hardware = simulation.hardware;
  simulation.memory = PlanMemory(
      EstimateMemoryNeeds(model, layout.weights, positions, scenario.chunk_tokens, hardware.has_gpu()),
      {.gpu_memory_bytes = hardware.gpu_memory_bytes, .ram_bytes = hardware.ram_bytes});
  if (!simulation.memory.fits) throw Error("{}: {}", hardware.name, simulation.memory.reason);

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

OrderedJson ToJson(const VirtualPhase& phase) {
  const double seconds = std::max(phase.seconds, 1e-30);  // of a phase without steps all is 0
  return {{"steps", phase.steps},
          {"seconds", phase.seconds},
          {"hit_rate", phase.hit_rate()},
          {"ceiling_seconds", phase.ceiling_seconds},
          {"time_shares",
           {{"cpu", phase.busy.cpu / seconds},
            {"gpu", phase.busy.gpu / seconds},
            {"link", phase.busy.link / seconds},
            {"dram", phase.busy.dram / seconds}}},
          {"bytes", {{"cpu", phase.cpu_bytes}, {"gpu", phase.gpu_bytes}, {"link", phase.link_bytes}}}};
}

OrderedJson ToJson(const SimulateOptions& options, const Simulation& simulation) {
  const VirtualResult& result = simulation.result;
  const VirtualPhase& main = result.generation.steps > 0 ? result.generation : result.prompt;
  OrderedJson json = {{"simulated", true},
                      {"model", options.model},
                      {"hardware", simulation.hardware.name},
                      {"policy", options.policy},
                      {"scenario", options.scenario},
                      {"prompt_tokens", simulation.scenario.prompt_tokens},
                      {"generated_tokens", simulation.scenario.generated_tokens},
                      {"sequences", simulation.scenario.sequences},
                      {"tokens_per_s", simulation.tokens() / result.seconds()},
                      {"ttft_s", result.ttft_seconds},
                      {"hit_rate", main.hit_rate()},
                      {"ceiling_tokens_per_s", simulation.tokens() / result.ceiling_seconds()},
                      {"percent_of_ceiling", 100 * result.ceiling_seconds() / result.seconds()},
                      {"seconds", result.seconds()},
                      {"slots", simulation.memory.num_slots},
                      {"resident_fraction", simulation.memory.resident_fraction},
                      {"vram_peak_bytes", simulation.memory.vram_peak_bytes},
                      {"ram_peak_bytes", simulation.memory.ram_peak_bytes},
                      {"prompt", ToJson(result.prompt)}};
  if (result.generation.steps > 0) {
    json["inter_token_s"] = result.generation.seconds / static_cast<double>(result.generation.steps);
    json["generation"] = ToJson(result.generation);
  }
  return json;
}

std::string PhaseRow(const char* name, const VirtualPhase& phase) {
  if (phase.steps == 0) return "";
  const auto percent = [&](double seconds) { return 100 * seconds / phase.seconds; };
  return fmt::format("{:<12}{:>8}{:>12.4g}{:>9.1f}%{:>11.1f}%{:>7.0f}%{:>7.0f}%{:>7.0f}%{:>7.0f}%\n", name,
                     phase.steps, phase.seconds, 100 * phase.hit_rate(), percent(phase.ceiling_seconds),
                     percent(phase.busy.cpu), percent(phase.busy.gpu), percent(phase.busy.link),
                     percent(phase.busy.dram));
}

void PrintText(const SimulateOptions& options, const Simulation& simulation) {
  const VirtualResult& result = simulation.result;
  WriteOutput(fmt::format(
      "simulated, not measured: {} on {}, policy {}, {}\n"
      "{:.4g} tokens/s, first token after {:.4g} s{}; at best {:.4g} tokens/s with these hits ({:.1f}%)\n"
      "{} of experts in {} slots, {} of GPU memory, {} of RAM\n\n",
      options.model, simulation.hardware.name, options.policy, options.scenario,
      simulation.tokens() / result.seconds(), result.ttft_seconds,
      result.generation.steps == 0
          ? ""
          : fmt::format(", then one every {:.4g} s",
                        result.generation.seconds / static_cast<double>(result.generation.steps)),
      simulation.tokens() / result.ceiling_seconds(), 100 * result.ceiling_seconds() / result.seconds(),
      fmt::format("{:.1f}%", 100 * simulation.memory.resident_fraction), simulation.memory.num_slots,
      FormatBytes(simulation.memory.vram_peak_bytes), FormatBytes(simulation.memory.ram_peak_bytes)));
  WriteOutput(fmt::format("{:<12}{:>8}{:>12}{:>10}{:>12}{:>8}{:>8}{:>8}{:>8}\n", "simulated", "steps",
                          "seconds", "hits", "of ceiling", "cpu", "gpu", "link", "dram") +
              PhaseRow("prompt", result.prompt) + PhaseRow("generation", result.generation));
}

void Simulate(const SimulateOptions& options) {
  const Simulation simulation = Run(options);
  if (options.json) {
    WriteJson(ToJson(options, simulation));
  } else {
    PrintText(options, simulation);
  }
}

}  // namespace

void RegisterSimulate(CLI::App& app) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App& verb =
      *app.add_subcommand("simulate", "how fast a model would run on given hardware, in virtual time");
  verb.add_option("MODEL", options->model, "Hugging Face model directory, config.json, or built-in geometry")
      ->required();
  verb.add_option("--hardware", options->hardware, "a machine built in, or a JSON file")
      ->required()
      ->type_name("NAME|FILE");
  std::vector<std::string> policies;
  for (const std::string_view name : PolicyNames()) policies.emplace_back(name);
  verb.add_option("--policy", options->policy, "who computes what")
      ->check(CLI::IsMember(policies))
      ->capture_default_str();
  verb.add_option("--gpu-memory", options->gpu_memory, "use no more of the GPU's memory")->type_name("SIZE");
  auto* trace =
      verb.add_option("--trace", options->trace, "recorded routing to replay")->check(CLI::ExistingFile);
  verb.add_option("--routing", options->routing, "make up routing like that of this published model")
      ->type_name("NAME")
      ->excludes(trace);
  verb.add_option("--scenario", options->scenario, "what to run")
      ->check(CLI::IsMember({"single", "prefill", "beam", "batch"}))
      ->capture_default_str();
  const auto count = [&](const char* name, int64_t& value, const char* help) {
    verb.add_option(name, value, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  count("--prompt", options->prompt_tokens, "tokens of a prompt");
  count("--gen", options->generated_tokens, "tokens to generate");
  count("--beam", options->beam, "width of the beam");
  count("--batch", options->batch, "sequences of a batch");
  count("--chunk", options->chunk_tokens, "tokens of a prompt in a step");
  verb.add_option("--seed", options->seed, "of the made-up routing")->capture_default_str();
  verb.add_flag("--serial", options->serial, "CPU, copies and GPU one after the other");
  verb.add_option("--ignore-config-field", options->ignored_fields,
                  "accept this unsupported field of config.json")
      ->type_name("NAME")
      ->allow_extra_args(false);
  RegisterQuantization(verb, options->quantization);
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Simulate(*options); });
}

}  // namespace fiddler
