// fiddler simulate: how fast a model would run on hardware that need not be at hand, under a policy. Reads
// config.json only. Virtual time: see sim/virtual_run.h for what it knows and what it does not.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/simulation.h"

namespace fiddler {
namespace {

struct SimulateOptions {
  SimulationOptions simulation;
  std::string hardware;
  bool json = false;
};

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

OrderedJson ToJson(const SimulationOptions& options, const Simulation& simulation) {
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

void PrintText(const SimulationOptions& options, const Simulation& simulation) {
  const VirtualResult& result = simulation.result;
  WriteOutput(fmt::format(
      "simulated, not measured: {} on {}, policy {}, {}, {} + {} tokens\n"
      "{:.4g} tokens/s, first token after {:.4g} s{}; at best {:.4g} tokens/s with these hits ({:.1f}%)\n"
      "{}{} of RAM\n\n",
      options.model, simulation.hardware.name, options.policy, options.scenario,
      simulation.scenario.prompt_tokens, simulation.scenario.generated_tokens,
      simulation.tokens() / result.seconds(), result.ttft_seconds,
      result.generation.steps == 0
          ? ""
          : fmt::format(", then one every {:.4g} s",
                        result.generation.seconds / static_cast<double>(result.generation.steps)),
      simulation.tokens() / result.ceiling_seconds(), 100 * result.ceiling_seconds() / result.seconds(),
      simulation.hardware.has_gpu()
          ? fmt::format("{:.1f}% of experts in {} slots, {} of GPU memory, ",
                        100 * simulation.memory.resident_fraction, simulation.memory.num_slots,
                        FormatBytes(simulation.memory.vram_peak_bytes))
          : "no GPU: the CPU computes everything under every policy; ",
      FormatBytes(simulation.memory.ram_peak_bytes)));
  WriteOutput(fmt::format("{:<12}{:>8}{:>12}{:>10}{:>12}{:>8}{:>8}{:>8}{:>8}\n", "simulated", "steps",
                          "seconds", "hits", "of ceiling", "cpu", "gpu", "link", "dram") +
              PhaseRow("prompt", result.prompt) + PhaseRow("generation", result.generation));
}

void Simulate(const SimulateOptions& options) {
  const Simulation simulation = RunSimulation(options.simulation, ChooseHardware(options.hardware));
  if (!simulation.memory.fits) throw Error("{}: {}", simulation.hardware.name, simulation.memory.reason);
  if (options.json) {
    WriteJson(ToJson(options.simulation, simulation));
  } else {
    PrintText(options.simulation, simulation);
  }
}

}  // namespace

void RegisterSimulate(CLI::App& app) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App& verb =
      *app.add_subcommand("simulate", "how fast a model would run on given hardware, in virtual time");
  options->simulation.Register(verb);
  verb.add_option("--hardware", options->hardware, HardwareHelp())->required()->type_name("NAME|FILE");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Simulate(*options); });
}

}  // namespace fiddler
