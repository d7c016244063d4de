#include "cli/device_bench.h"

#include <algorithm>

#include "base/error.h"
#include "base/field_reader.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/timing.h"
#include "experts/policy.h"
#include "sim/layer_ceiling.h"

namespace fiddler {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 24;

// Seconds that steps would take at best, with every expert's slices where they were before the step: what all
// tokens pass on the device, the experts shared with the CPU as well as can be.
class Ceiling {
 public:
  Ceiling(const PackedModel& model, const CostModel& cost)
      : cost_(cost),
        experts_(static_cast<size_t>(model.spec.moe.num_experts)),
        // In slices: both are streams of weights that each token is multiplied with.
        dense_slices_(static_cast<double>(DenseBytes(model.weights)) /
                      static_cast<double>(TypicalFfn(model.weights).slice_bytes())) {}

  void AddLayer(std::span<const ExpertLoad> loads) { seconds_ += experts_.Seconds(loads, cost_); }
  void AddStep(int64_t tokens) { seconds_ += dense_slices_ * cost_.gpu.Seconds(static_cast<double>(tokens)); }
  void Reset() { seconds_ = 0; }
  double seconds() const { return seconds_; }

 private:
  const CostModel& cost_;
  LayerCeiling experts_;
  const double dense_slices_;
  double seconds_ = 0;
};

EngineOptions EngineOf(const DeviceScenario& scenario, Arithmetic arithmetic) {
  return {.max_positions = scenario.positions(), .max_sequences = scenario.batch, .arithmetic = arithmetic};
}

ExpertTraffic Since(const ExpertTraffic& before, const ExpertTraffic& now) {
  return {.resident = now.resident - before.resident,
          .fetched = now.fetched - before.fetched,
          .cpu = now.cpu - before.cpu,
          .idle_copies = now.idle_copies - before.idle_copies};
}

// One phase over all rounds.
struct Phase {
  std::vector<double> rate;          // tokens/s, a round each
  std::vector<double> ceiling_rate;  // tokens/s
  std::vector<double> percent;       // of the ceiling
  std::vector<double> step_ms;       // of all rounds together
  ExpertTraffic traffic;

  void Add(double tokens, double seconds, double ceiling_seconds, const ExpertTraffic& slices) {
    rate.push_back(tokens / seconds);
    ceiling_rate.push_back(tokens / ceiling_seconds);
    percent.push_back(100 * ceiling_seconds / seconds);
    traffic = {.resident = traffic.resident + slices.resident,
               .fetched = traffic.fetched + slices.fetched,
               .cpu = traffic.cpu + slices.cpu,
               .idle_copies = traffic.idle_copies + slices.idle_copies};
  }

  OrderedJson Describe(int64_t tokens) const {
    return {{"tokens", tokens},
            {"tokens_per_s", Median(rate)},
            {"ceiling_tokens_per_s", Median(ceiling_rate)},
            {"percent_of_limit", Median(percent)},
            {"expert_slices", DescribeTraffic(traffic)}};
  }
};

class ScenarioRun {
 public:
  ScenarioRun(const DeviceScenario& scenario, const DeviceSetup& setup, Session& session)
      : scenario_(scenario),
        vocab_size_(session.spec().vocab_size),
        ceiling_(session.model(), setup.cost),
        engine_(session.model(), session.kernels(), session.pool(), WithDevice(scenario, setup, session)) {
    engine_.ObserveLoads([this](int64_t, std::span<const ExpertLoad> loads) { ceiling_.AddLayer(loads); });
  }

  void Round(uint64_t seed) { Round(seed, scenario_.generated_tokens); }

  // A prompt and two steps that do not count: buffers are touched for the first time.
  void WarmUp() {
    Round(0, std::min<int64_t>(2, scenario_.generated_tokens));
    prefill_ = decode_ = {};
  }

  OrderedJson Describe() const {
    OrderedJson result = {{"prefill", prefill_.Describe(scenario_.prompt_tokens)}};
    if (scenario_.generated_tokens > 0) {
      result["decode"] = decode_.Describe(scenario_.generated_tokens);
      result["decode"]["step_ms"] = {{"p50", Median(decode_.step_ms)},
                                     {"p99", Quantile(decode_.step_ms, 0.99)}};
    }
    return result;
  }

 private:
  static EngineOptions WithDevice(const DeviceScenario& scenario, const DeviceSetup& setup,
                                  const Session& session) {
    EngineOptions options = EngineOf(scenario, session.arithmetic());
    options.device = &setup;
    return options;
  }

  void Round(uint64_t seed, int64_t steps) {
    Rng rng(seed);
    std::vector<SequenceId> ids;
    for (int64_t b = 0; b < scenario_.batch; ++b) {
      Request request = {.prompt = {},
                         .max_tokens = scenario_.positions() - scenario_.prompt_tokens,
                         .sampling = {},
                         .stop_tokens = {}};
      for (int64_t t = 0; t < scenario_.prompt_tokens; ++t) {
        request.prompt.push_back(static_cast<int32_t>(rng.NextBits() % static_cast<uint64_t>(vocab_size_)));
      }
      ids.push_back(engine_.Add(std::move(request)));
    }
    ReadPrompts(ids.size());
    if (steps > 0) Generate(steps);
    for (const SequenceId id : ids) engine_.Cancel(id);
  }

  // Until every sequence has its first token.
  void ReadPrompts(size_t sequences) {
    const ExpertTraffic before = *engine_.traffic();
    ceiling_.Reset();
    int64_t steps = 1;
    const double seconds = SecondsOf([&] {
      while (engine_.Step().size() < sequences) ++steps;
    });
    const int64_t tokens = scenario_.batch * scenario_.prompt_tokens;
    for (int64_t step = 0; step < steps; ++step) ceiling_.AddStep(tokens / steps);
    prefill_.Add(static_cast<double>(tokens), seconds, ceiling_.seconds(), Since(before, *engine_.traffic()));
  }

  void Generate(int64_t steps) {
    const ExpertTraffic before = *engine_.traffic();
    ceiling_.Reset();
    double seconds = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const double step_seconds = SecondsOf([&] { engine_.Step(); });
      ceiling_.AddStep(scenario_.batch);
      decode_.step_ms.push_back(1e3 * step_seconds);
      seconds += step_seconds;
    }
    decode_.Add(static_cast<double>(scenario_.batch * steps), seconds, ceiling_.seconds(),
                Since(before, *engine_.traffic()));
  }

  const DeviceScenario& scenario_;
  const int64_t vocab_size_;
  Ceiling ceiling_;
  Engine engine_;
  Phase prefill_;
  Phase decode_;
};

}  // namespace

std::vector<DeviceScenario> ReadScenarios(const std::string& file, const DeviceScenario& otherwise) {
  const Json json = ParseJson(ReadFile(file, size_t{1} << 20), file);
  if (!json.is_array() || json.empty()) {
    throw Error("{}: expected an array of scenarios, got {}", file, Printable(json));
  }
  std::vector<DeviceScenario> scenarios;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string source = fmt::format("{}: scenario {}", file, i);
    FieldReader reader(json[i], source);
    DeviceScenario& scenario = scenarios.emplace_back(otherwise);
    if (reader.Has("policy")) {
      scenario.policy = reader.String("policy");
      if (std::ranges::find(PolicyNames(), scenario.policy) == PolicyNames().end()) {
        throw Error("{}: policy: expected one of {}, got '{}'", source, fmt::join(PolicyNames(), ", "),
                    scenario.policy);
      }
    }
    if (reader.Has("prompt")) scenario.prompt_tokens = reader.Integer("prompt", 1, kMostTokens);
    if (reader.Has("gen")) scenario.generated_tokens = reader.Integer("gen", 0, kMostTokens);
    if (reader.Has("batch")) scenario.batch = reader.Integer("batch", 1, kMostTokens);
    reader.RefuseUnread();
  }
  return scenarios;
}

EngineOptions LargestEngine(std::span<const DeviceScenario> scenarios, Arithmetic arithmetic) {
  EngineOptions largest = EngineOf(scenarios.front(), arithmetic);
  for (const DeviceScenario& scenario : scenarios) {
    const EngineOptions options = EngineOf(scenario, arithmetic);
    // By keys and values, which is what differs most.
    if (options.max_positions * options.max_sequences > largest.max_positions * largest.max_sequences) {
      largest = options;
    }
  }
  return largest;
}

OrderedJson BenchScenario(const DeviceScenario& scenario, int64_t rounds, const DeviceSession& device,
                          Session& session) {
  DeviceSetup setup = *device.setup();
  if (!scenario.policy.empty()) {
    setup.make_policy = [&](const PolicyGeometry& geometry, const CostModel& cost) {
      return MakePolicy(scenario.policy, geometry, cost);
    };
  }
  ScenarioRun run(scenario, setup, session);
  run.WarmUp();
  for (int64_t round = 1; round <= rounds; ++round) run.Round(static_cast<uint64_t>(round));
  OrderedJson result = {
      {"policy", scenario.policy}, {"batch", scenario.batch}, {"counts_on", device.counts_on()}};
  result.update(run.Describe());
  return result;
}

std::string ScenarioText(const OrderedJson& result) {
  std::string text;
  for (const char* phase : {"prefill", "decode"}) {
    if (!result.contains(phase)) continue;
    const OrderedJson& figures = result[phase];
    text += fmt::format(
        "{:<13} {:<8} {:>5} tokens x {:<3} {:>9.1f} tokens/s {:>6.1f}% of {:.1f} ({}), {:.1f}% of "
        "the slices were there\n",
        result["policy"].get<std::string>(), phase, figures["tokens"].get<int64_t>(),
        result["batch"].get<int64_t>(), figures["tokens_per_s"].get<double>(),
        figures["percent_of_limit"].get<double>(), figures["ceiling_tokens_per_s"].get<double>(),
        result["counts_on"].get<std::string>(), 100 * figures["expert_slices"]["hit_rate"].get<double>());
  }
  return text;
}

}  // namespace fiddler
