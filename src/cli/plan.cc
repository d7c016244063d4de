// fiddler plan: what of a model goes where on a machine, how much memory that takes at most, and how fast it
// will be, before anything is downloaded or loaded: config.json is enough. The speed is simulated.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "base/memory.h"
#include "base/units.h"
#include "calibrate/limits.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/simulation.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

struct PlanArguments {
  SimulationOptions simulation;
  std::string hardware;
  bool json = false;
};

// What this machine reaches, without a GPU: measured, in about a second.
HardwareProfile ThisMachine() {
  const Topology topology = DiscoverTopology();
  ThreadPool pool(topology.DefaultThreads(), topology);
  const Limits limits = LimitProbe(BestKernels(), pool).MeasureAll();
  constexpr double kBarrierSeconds = 3e-6;
  HardwareProfile machine;
  machine.name = fmt::format("this machine ({}, {} threads)", topology.cpu_model, pool.num_threads());
  machine.cpu_read_gbps = limits.read_gbps;
  machine.dram_gbps = limits.read_gbps;
  machine.cpu_gflops = limits.bf16_gflops;
  machine.ram_bytes = ResidentBytes() + UsableMemoryBytes();
  machine.handoff_seconds = kBarrierSeconds;
  return machine;
}

OrderedJson ToJson(const PlanArguments& options, const Simulation& plan) {
  const MemoryNeeds& needs = plan.needs;
  const MemoryPlan& memory = plan.memory;
  OrderedJson json = {{"model", options.simulation.model},
                      {"hardware", plan.hardware.name},
                      {"policy", options.simulation.policy},
                      {"fits", memory.fits},
                      {"ram_peak_bytes", memory.ram_peak_bytes},
                      {"vram_peak_bytes", memory.vram_peak_bytes},
                      {"resident_fraction", memory.resident_fraction},
                      {"tokens_per_s", plan.tokens_per_second()},
                      {"simulated", true}};
  if (memory.fits) {
    const VirtualPhase& generation = plan.result.generation;
    if (generation.steps > 0) {  // what run and bench call tokens_per_s, for all sequences
      json["decode_tokens_per_s"] =
          static_cast<double>(generation.steps * (plan.scenario.is_beam ? 1 : plan.scenario.sequences)) /
          generation.seconds;
    }
    json["ttft_s"] = plan.result.ttft_seconds;
    json["ceiling_tokens_per_s"] = plan.tokens() / plan.result.ceiling_seconds();
  } else {
    json["reason"] = memory.reason;
    json["runs_from_disk"] = plan.runs_from_disk();
    if (plan.runs_from_disk()) json["experts_in_ram"] = plan.disk.expert_slots;
  }
  json["gpu"] = {{"dense_bytes", needs.device_dense_bytes},
                 {"kv_bytes", needs.kv_bytes},
                 {"workspace_bytes", needs.device_workspace_bytes},
                 {"expert_slots", memory.num_slots},
                 {"slice_bytes", needs.slice_bytes},
                 {"expert_slices", needs.num_expert_slices}};
  json["ram"] = {{"weight_bytes", needs.host_weight_bytes}, {"workspace_bytes", needs.host_workspace_bytes}};
  return json;
}

std::string Rate(double per_second) {  // three digits, never as a power of ten
  return per_second < 100 ? fmt::format("{:.3g}", per_second) : fmt::format("{:.0f}", per_second);
}

void PrintText(const PlanArguments& options, const Simulation& plan) {
  const MemoryNeeds& needs = plan.needs;
  const MemoryPlan& memory = plan.memory;
  const VirtualScenario& scenario = plan.scenario;
  WriteOutput(fmt::format("{} on {}, a context of {} tokens\n", options.simulation.model, plan.hardware.name,
                          scenario.prompt_tokens + scenario.generated_tokens));
  if (plan.hardware.has_gpu()) {
    WriteOutput(fmt::format(
        "GPU   {} of {}: {} of weights that every token passes, {} of keys and values, {} of buffers, {} of "
        "experts ({:.1f}% of them: {} of {} slices)\n",
        FormatBytes(memory.vram_peak_bytes), FormatBytes(plan.hardware.gpu_memory_bytes),
        FormatBytes(needs.device_dense_bytes), FormatBytes(needs.kv_bytes),
        FormatBytes(needs.device_workspace_bytes),
        FormatBytes(static_cast<uint64_t>(memory.num_slots) * needs.slice_bytes),
        100 * memory.resident_fraction, memory.num_slots, needs.num_expert_slices));
  }
  WriteOutput(fmt::format("RAM   {} of {}: {} of weights, {} of {}\n", FormatBytes(memory.ram_peak_bytes),
                          FormatBytes(plan.hardware.ram_bytes), FormatBytes(needs.host_weight_bytes),
                          FormatBytes(needs.host_workspace_bytes),
                          plan.hardware.has_gpu() ? "buffers" : "keys, values and buffers"));
  if (!memory.fits) {
    if (!plan.runs_from_disk()) return WriteOutput(fmt::format("does not fit: {}\n", memory.reason));
    return WriteOutput(fmt::format(
        "does not fit in {}\n"
        "runs all the same, with {} of {} experts in RAM and the others from disk; its speed is not known\n",
        memory.reason, plan.disk.expert_slots, plan.disk.num_experts));
  }
  WriteOutput(
      fmt::format("speed {} tokens/s for {} + {} tokens, the first after {:.3g} s (simulated{})\n",
                  Rate(plan.tokens_per_second()), scenario.prompt_tokens, scenario.generated_tokens,
                  plan.result.ttft_seconds,
                  plan.hardware.has_gpu()
                      ? fmt::format(", policy {}; at most {} with these hits", options.simulation.policy,
                                    Rate(plan.tokens() / plan.result.ceiling_seconds()))
                      : ""));
}

void Plan(const PlanArguments& options) {
  if (options.hardware.empty() && !options.simulation.gpu_memory.empty()) {
    throw Error("--gpu-memory: expected hardware with a GPU (--hardware), got none");
  }
  const HardwareProfile hardware =
      options.hardware.empty() ? ThisMachine() : ChooseHardware(options.hardware);
  const Simulation plan = RunSimulation(options.simulation, hardware);
  if (options.json) {
    WriteJson(ToJson(options, plan));
  } else {
    PrintText(options, plan);
  }
}

}  // namespace

void RegisterPlan(CLI::App& app) {
  auto options = std::make_shared<PlanArguments>();
  CLI::App& verb =
      *app.add_subcommand("plan", "what fits where and how fast it will be, from config.json alone");
  options->simulation.Register(verb);
  verb.add_option("--hardware", options->hardware,
                  HardwareHelp() + " (default: this machine's CPU, measured now)")
      ->type_name("NAME|FILE");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Plan(*options); });
}

}  // namespace fiddler
