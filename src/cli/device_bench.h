// What bench measures where a device computes beside the CPU: scenarios, one after another, on a model that
// is loaded once. Each stands beside what nobody could beat on this machine with the experts where they were
// (sim/layer_ceiling.h with the machine's measured costs), and beside what of the experts was where.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/device_session.h"
#include "cli/output.h"
#include "cli/session.h"
#include "engine/engine.h"

namespace fiddler {

struct DeviceScenario {
  std::string policy;  // empty: that of --policy
  int64_t prompt_tokens = 512;
  int64_t generated_tokens = 64;  // 0: only the prompt
  int64_t batch = 1;

  // That a sequence needs: prompt, output, and what the first sequences generate while the last prompts are
  // read, of which every step reads at least one token.
  int64_t positions() const {
    const int64_t step_tokens = std::max(EngineOptions().max_batch_tokens, batch + 1) - batch;
    return prompt_tokens + generated_tokens + batch * prompt_tokens / step_tokens + batch + 1;
  }
};

// A file of scenarios: a JSON array of objects {"policy", "prompt", "gen", "batch"}, of which each may be
// left out: `otherwise` has it. Throws Error naming file, field, expected and got.
std::vector<DeviceScenario> ReadScenarios(const std::string& file, const DeviceScenario& otherwise);

// An engine that any of the scenarios can be run with, for what must fit into memory.
EngineOptions LargestEngine(std::span<const DeviceScenario> scenarios, Arithmetic arithmetic);

// Runs one: an engine of its own, `rounds` times a prompt (or as many as the batch has) and a generation.
// {"policy", "batch", "counts_on": whose costs the ceilings are made of, "prefill": {"tokens",
// "tokens_per_s", "ceiling_tokens_per_s", "percent_of_limit", "expert_slices"}, "decode": {the same,
// "step_ms": {"p50", "p99"}}}; medians over the rounds.
OrderedJson BenchScenario(const DeviceScenario& scenario, int64_t rounds, const DeviceSession& device,
                          Session& session);
// On one line, for people.
std::string ScenarioText(const OrderedJson& result);

}  // namespace fiddler
