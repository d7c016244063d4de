// A model run in virtual time (sim/virtual_run.h) on hardware that need not be at hand: the options that say
// what, where and how, and what comes out. From config.json alone; no weights are read.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/host_memory.h"
#include "plan/hardware.h"
#include "plan/memory_plan.h"
#include "sim/virtual_run.h"

namespace fiddler {

struct SimulationOptions {
  std::string model;
  std::vector<std::string> ignored_fields;
  std::string quantization;
  std::string policy = "balanced";
  std::string gpu_memory;
  std::string trace;
  std::string routing;
  std::string scenario = "single";
  int64_t prompt_tokens = 128;
  int64_t generated_tokens = 128;
  std::optional<int64_t> beam;   // width; 4 where the scenario is beam
  std::optional<int64_t> batch;  // sequences; 8 where the scenario is batch
  int64_t chunk_tokens = 512;
  uint64_t seed = 0;
  bool serial = false;

  void Register(CLI::App& verb);
};

struct Simulation {
  HardwareProfile hardware;  // with the GPU memory that may be used
  VirtualScenario scenario;
  MemoryNeeds needs;
  MemoryPlan memory;
  VirtualResult result;  // of nothing, if the model does not fit
  HostPlan disk;         // if RAM does not hold all experts: how many it holds, the others on disk

  // What the user is given, over all the time it takes.
  double tokens() const {
    if (scenario.generated_tokens == 0)
      return static_cast<double>(scenario.prompt_tokens * scenario.sequences);
    return static_cast<double>(scenario.generated_tokens * (scenario.is_beam ? 1 : scenario.sequences));
  }
  double tokens_per_second() const { return memory.fits ? tokens() / result.seconds() : 0; }
  bool runs_from_disk() const { return !memory.fits && disk.expert_slots > 0; }
};

// A machine built in, or a JSON file. Throws Error.
HardwareProfile ChooseHardware(const std::string& name_or_file);

// For the help of an option that takes one.
std::string HardwareHelp();

// Throws Error for options that make no sense on that hardware.
Simulation RunSimulation(const SimulationOptions& options, const HardwareProfile& hardware);

}  // namespace fiddler
