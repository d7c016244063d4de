// fiddler bench: speed of reading a prompt (prefill) and of generating (decode), beside the limits of the
// machine: decode is held against reading memory, prefill against the arithmetic that its weights are
// multiplied with; where experts come from disk, what is read of them against reading that file. --limits
// measures the limits alone. --ram is for the model: the 1 GiB that measures the memory comes on top.
#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/timing.h"
#include "calibrate/limits.h"
#include "cli/commands.h"
#include "cli/device_bench.h"
#include "cli/disk_bench.h"
#include "cli/expert_bench.h"
#include "cli/kernel_bench.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "engine/expert_timer.h"

namespace fiddler {
namespace {

struct BenchOptions {
  ModelOptions model;
  DeviceOptions device;
  std::string scenarios;  // a file
  int64_t prompt_tokens = 512;
  int64_t generated_tokens = 64;
  int64_t batch = 1;
  int64_t repetitions = 3;
  bool limits = false;
  bool experts = false;
  bool kernels = false;
  bool json = false;
};

// What a step reads: dense weights once, whatever the batch; of the experts, those the router chose; the keys
// and values of every sequence.
class Traffic {
 public:
  Traffic(const PackedModel& model, Arithmetic arithmetic)
      : spec_(model.spec),
        weights_(model.weights),
        dense_bytes_(DenseBytes(model.weights)),
        position_bytes_(2 * static_cast<uint64_t>(spec_.attention.kv_width()) *
                        DTypeBytes(KvTypeFor(model, arithmetic))),
        touched_(static_cast<size_t>(model.spec.moe.num_experts)) {}

  // One token for each of `sequences`, at `positions` with its own.
  void CountStep(int64_t sequences, int64_t positions) {
    bytes_ += dense_bytes_;
    for (const LayerSpec& layer : spec_.layers) {
      const int64_t seen = layer.sliding_window > 0 ? std::min(positions, layer.sliding_window) : positions;
      bytes_ += static_cast<uint64_t>(sequences * seen) * position_bytes_;
    }
  }

  void CountExperts(const Routing& routing) {
    const std::vector<SlicedFfn>& experts = weights_.layers[static_cast<size_t>(routing.layer)].experts;
    std::fill(touched_.begin(), touched_.end(), false);
    for (int32_t expert : routing.experts) {
      const auto index = static_cast<size_t>(expert);
      if (!touched_[index]) bytes_ += experts[index].bytes();
      touched_[index] = true;
    }
  }

  void Reset() { bytes_ = 0; }
  double bytes() const { return static_cast<double>(bytes_); }

 private:
  const ModelSpec& spec_;
  const PackedWeights& weights_;
  const uint64_t dense_bytes_;
  const uint64_t position_bytes_;  // of one layer
  std::vector<bool> touched_;      // [num_experts], scratch
  uint64_t bytes_ = 0;
};

// Multiplications and additions of reading prompts: every weight a token passes, the output head for the last
// token only, attention over all positions before.
double PrefillFlops(const ModelSpec& spec, int64_t prompts, int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  const auto head = static_cast<double>(spec.vocab_size * spec.hidden);
  const double per_token = static_cast<double>(CountParameters(spec).active) - head;
  const double attention =
      2.0 * static_cast<double>(spec.num_layers() * spec.attention.q_width()) * n * (n + 1) / 2;
  return 2 * static_cast<double>(prompts) * (n * per_token + head + attention);
}

class Benchmark {
 public:
  Benchmark(const BenchOptions& options, Session& session, DiskBench& disk)
      : options_(options),
        vocab_size_(session.spec().vocab_size),
        disk_(disk),
        engine_(session.model(), session.kernels(), session.pool(), EngineOptionsOf(options, session)),
        traffic_(session.model(), session.arithmetic()) {
    engine_.ObserveRouting([this](const Routing& routing) { traffic_.CountExperts(routing); });
  }

  static EngineOptions EngineOptionsOf(const BenchOptions& options, const Session& session) {
    return {.max_positions = Positions(options),
            .max_sequences = options.batch,
            .arithmetic = session.arithmetic()};
  }

  // Positions a sequence needs: prompt, output, and what the first sequences generate while the last prompts
  // are read.
  static int64_t Positions(const BenchOptions& options) {
    return options.prompt_tokens + options.generated_tokens + MaxPrefillSteps(options) + 1;
  }

  // Seconds to read the prompts of a batch and choose the first token of each.
  double Prefill(uint64_t seed) {
    AddRandomRequests(seed, /*max_tokens=*/1);
    disk_.Start();
    return SecondsOf([&] {
      while (!engine_.idle()) engine_.Step();
    });
  }

  struct DecodeTiming {
    double seconds;
    double bytes;  // of weights, keys and values read
  };

  // Steps in which every sequence of a batch gets a token.
  DecodeTiming Decode(uint64_t seed) {
    const std::vector<SequenceId> ids =
        AddRandomRequests(seed, options_.generated_tokens + MaxPrefillSteps(options_) + 1);
    while (engine_.Step().size() < ids.size()) {
    }
    traffic_.Reset();
    disk_.Start();
    const double seconds = SecondsOf([&] {
      for (int64_t step = 0; step < options_.generated_tokens; ++step) {
        engine_.Step();
        traffic_.CountStep(options_.batch, options_.prompt_tokens + 1 + step);
      }
    });
    for (SequenceId id : ids) engine_.Cancel(id);
    return {seconds, traffic_.bytes()};
  }

 private:
  // Every step reads at least one token of a prompt that is not yet read.
  static int64_t MaxPrefillSteps(const BenchOptions& options) {
    const int64_t batch_tokens =
        std::max(EngineOptions().max_batch_tokens, options.batch + 1) - options.batch;
    return options.batch * options.prompt_tokens / batch_tokens + options.batch + 1;
  }

  // Other tokens for every seed: other experts.
  std::vector<SequenceId> AddRandomRequests(uint64_t seed, int64_t max_tokens) {
    Rng rng(seed);
    std::vector<SequenceId> ids;
    for (int64_t b = 0; b < options_.batch; ++b) {
      Request request = {.prompt = {}, .max_tokens = max_tokens, .sampling = {}, .stop_tokens = {}};
      for (int64_t t = 0; t < options_.prompt_tokens; ++t) {
        request.prompt.push_back(static_cast<int32_t>(rng.NextBits() % static_cast<uint64_t>(vocab_size_)));
      }
      ids.push_back(engine_.Add(std::move(request)));
    }
    return ids;
  }

  const BenchOptions& options_;
  const int64_t vocab_size_;
  DiskBench& disk_;
  Engine engine_;
  Traffic traffic_;
};

// Of every round; the limits as they were beside it.
struct Samples {
  std::vector<double> read_gbps;
  std::vector<double> f32_gflops;
  std::vector<double> bf16_gflops;
  std::vector<double> int8_gops;
  std::vector<double> prefill_rate;  // tokens/s
  std::vector<double> prefill_percent;
  std::vector<double> decode_rate;  // tokens/s
  std::vector<double> decode_gbps;
  std::vector<double> decode_percent;
};

// The field of `limits` that products with these weights are held against.
const char* ArithmeticLimit(const Session& session) {
  const WeightFormat format = TypicalFfn(session.model().weights).format;
  if (session.arithmetic() != Arithmetic::kFast || FastRounding(format) == Rounding::kNone)
    return "f32_gflops";
  return format == WeightFormat::kBF16 ? "bf16_gflops" : "int8_gops";
}

OrderedJson LimitsJson(const Limits& limits) {
  return {{"read_gbps", limits.read_gbps},
          {"f32_gflops", limits.f32_gflops},
          {"bf16_gflops", limits.bf16_gflops},
          {"int8_gops", limits.int8_gops}};
}

void PrintLimits(const OrderedJson& limits) {
  WriteOutput(
      fmt::format("limits   {:.1f} GB/s read, {:.0f} GFLOP/s f32, {:.0f} GFLOP/s bf16, {:.0f} GOP/s int8\n",
                  limits["read_gbps"].get<double>(), limits["f32_gflops"].get<double>(),
                  limits["bf16_gflops"].get<double>(), limits["int8_gops"].get<double>()));
}

void PrintText(const OrderedJson& result) {
  const auto line = [&](const char* phase, const char* rate, const char* unit) {
    const OrderedJson& figures = result[phase];
    const auto limit = figures["limit"].get<std::string>();
    WriteOutput(
        fmt::format("{:<8} {:>5} tokens x {:<3} {:>9.1f} tokens/s {:>8.1f} {:<8} {:>5.1f}% of {:.1f} ({})\n",
                    phase, figures["tokens"].get<int64_t>(), result["batch"].get<int64_t>(),
                    figures["tokens_per_s"].get<double>(), figures[rate].get<double>(), unit,
                    figures["percent_of_limit"].get<double>(), result["limits"][limit].get<double>(), limit));
  };
  line("prefill", "gflops", "GFLOP/s");
  line("decode", "gbps", "GB/s");
  if (result.contains("disk")) DiskBench::Print(result["disk"]);
}

Samples Measure(const BenchOptions& options, Session& session, double flops_per_token, DiskBench& disk) {
  Benchmark benchmark(options, session, disk);
  LimitProbe probe(session.kernels(), session.pool());
  const auto prompt_tokens = static_cast<double>(options.batch * options.prompt_tokens);
  const auto generated_tokens = static_cast<double>(options.batch * options.generated_tokens);
  benchmark.Prefill(0);  // touches every buffer once; not counted
  Samples samples;
  const std::string_view limit_name = ArithmeticLimit(session);
  const std::vector<double>& limit = limit_name == "f32_gflops"    ? samples.f32_gflops
                                     : limit_name == "bf16_gflops" ? samples.bf16_gflops
                                                                   : samples.int8_gops;
  for (int64_t round = 1; round <= options.repetitions; ++round) {
    // The limits are measured between the rounds: the machine may not be the same a minute later.
    samples.f32_gflops.push_back(probe.Float32Gigaflops());
    samples.bf16_gflops.push_back(probe.BF16Gigaflops());
    samples.int8_gops.push_back(probe.Int8Gigaops());
    disk.BeginRound();
    const double prefill_seconds = benchmark.Prefill(static_cast<uint64_t>(round));
    disk.Finish(DiskBench::kPrefill, prefill_seconds);
    const double prefill_rate = prompt_tokens / prefill_seconds;
    samples.prefill_rate.push_back(prefill_rate);
    samples.prefill_percent.push_back(100 * prefill_rate * flops_per_token / 1e9 / limit.back());

    const double read_gbps = probe.ReadGigabytesPerSecond();
    const Benchmark::DecodeTiming decode = benchmark.Decode(static_cast<uint64_t>(round));
    const double decode_gbps = decode.bytes / decode.seconds / 1e9;
    samples.read_gbps.push_back(read_gbps);
    samples.decode_rate.push_back(generated_tokens / decode.seconds);
    samples.decode_gbps.push_back(decode_gbps);
    samples.decode_percent.push_back(100 * decode_gbps / read_gbps);
    disk.Finish(DiskBench::kDecode, decode.seconds);
  }
  return samples;
}

// One line of JSON for each scenario, as soon as it is done. False: there is no device.
bool BenchDevice(const BenchOptions& options) {
  const DeviceScenario one = {.policy = options.device.policy.empty() ? "balanced" : options.device.policy,
                              .prompt_tokens = options.prompt_tokens,
                              .generated_tokens = options.generated_tokens,
                              .batch = options.batch};
  const std::vector<DeviceScenario> scenarios =
      options.scenarios.empty() ? std::vector{one} : ReadScenarios(options.scenarios, one);
  Session session(options.model);
  DeviceSession device(options.device, session);
  if (device.device() == nullptr) return false;
  for (const DeviceScenario& scenario : scenarios) {
    if (scenario.positions() <= session.spec().max_positions) continue;
    throw Error("{}: expected at most {} positions a sequence (max_position_embeddings), got {}",
                options.scenarios.empty() ? "--prompt and --gen" : options.scenarios,
                session.spec().max_positions, scenario.positions());
  }
  const ForwardLimits limits = LimitsOf(LargestEngine(scenarios, session.arithmetic()));
  session.Load({&limits, 1}, device.budget());
  device.SetUp();
  const OrderedJson pinned = device.FinishPinning();
  int64_t failed = 0;
  for (size_t i = 0; i < scenarios.size(); ++i) {
    OrderedJson result = {{"model", session.config().name},
                          {"device", device.device()->name()},
                          {"isa", session.kernels().isa},
                          {"threads", session.pool().num_threads()}};
    result["pinned"] = pinned;
    if (!options.scenarios.empty()) result["scenario"] = i;
    try {
      result.update(BenchScenario(scenarios[i], options.repetitions, device, session));
    } catch (const Error& error) {
      if (options.scenarios.empty()) throw;
      Note("scenario {}: {}", i, error.what());  // the others may do better
      result["error"] = error.what();
      ++failed;
    }
    if (options.json) {
      WriteJson(result);
    } else if (!result.contains("error")) {
      WriteOutput(ScenarioText(result));
    }
  }
  if (failed > 0) throw Error("{}: {} of {} scenarios failed", options.scenarios, failed, scenarios.size());
  return true;
}

void BenchDeviceKernels(const BenchOptions& options) {
  if (options.model.model.empty()) throw CLI::RequiredError("MODEL");
  options.device.Check();
  Session session(options.model);
  if (session.spec().moe.num_experts == 0) throw Error("--kernels: expected a model with experts, got none");
  const WeightFormat format = session.quantization() == Quantization::kInt8   ? WeightFormat::kInt8
                              : session.quantization() == Quantization::kInt4 ? WeightFormat::kInt4
                                                                              : WeightFormat::kBF16;
  const DeviceSession opened(options.device, session);
  Device* const device = opened.device();
  if (device == nullptr)
    throw Error("--kernels: expected a device, got none with --device {}", options.device.device);
  OrderedJson result = {
      {"model", session.config().name}, {"device", device->name()}, {"format", FormatName(format)}};
  result.update(BenchKernels(session.spec(), format, options.prompt_tokens, *device, session.kernels(),
                             session.pool()));
  if (options.json) return WriteJson(result);
  PrintKernels(result);
}

void Bench(const BenchOptions& options) {
  Session session(options.model);
  const ModelSpec& spec = session.spec();
  if (Benchmark::Positions(options) > spec.max_positions) {
    throw Error(
        "--prompt, --gen and --batch: expected at most {} positions a sequence (max_position_embeddings), "
        "got {}",
        spec.max_positions, Benchmark::Positions(options));
  }
  const ForwardLimits limits = LimitsOf(Benchmark::EngineOptionsOf(options, session));
  session.Load({&limits, 1});
  const double flops_per_token = PrefillFlops(spec, options.batch, options.prompt_tokens) /
                                 static_cast<double>(options.batch * options.prompt_tokens);
  DiskBench disk(*session.model().host_experts);
  const Samples samples = Measure(options, session, flops_per_token, disk);

  const double prefill_rate = Median(samples.prefill_rate);
  OrderedJson result = {{"model", session.config().name},
                        {"isa", session.kernels().isa},
                        {"threads", session.pool().num_threads()},
                        {"batch", options.batch},
                        {"limits", LimitsJson({.read_gbps = Median(samples.read_gbps),
                                               .f32_gflops = Median(samples.f32_gflops),
                                               .bf16_gflops = Median(samples.bf16_gflops),
                                               .int8_gops = Median(samples.int8_gops)})},
                        {"prefill",
                         {{"tokens", options.prompt_tokens},
                          {"tokens_per_s", prefill_rate},
                          {"gflops", prefill_rate * flops_per_token / 1e9},
                          {"limit", ArithmeticLimit(session)},
                          {"percent_of_limit", Median(samples.prefill_percent)}}},
                        {"decode",
                         {{"tokens", options.generated_tokens},
                          {"tokens_per_s", Median(samples.decode_rate)},
                          {"gbps", Median(samples.decode_gbps)},
                          {"limit", "read_gbps"},
                          {"percent_of_limit", Median(samples.decode_percent)}}}};
  if (const OrderedJson figures = disk.Describe(); !figures.is_null()) result["disk"] = figures;
  if (options.json) return WriteJson(result);
  if (options.limits) PrintLimits(result["limits"]);
  PrintText(result);
}

void BenchExperts(const BenchOptions& options) {
  constexpr int64_t kTokens[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512};
  Session session(options.model);
  const std::vector<LayerSpec>& layers = session.spec().layers;
  if (std::ranges::none_of(layers, &LayerSpec::is_moe))
    throw Error("--experts: expected a model with experts, got none");
  session.Load({});
  if (!session.model().host_experts->in_memory())
    throw Error("--experts: expected all experts in memory, got a --ram that has no room for them");
  const std::vector<ExpertTiming> timings = TimeExperts(session.model(), session.kernels(), session.pool(),
                                                        session.arithmetic(), kTokens, options.repetitions);
  const double layer_us = 1e6 * TimeCachedLayer(session.kernels(), session.pool());
  OrderedJson experts = OrderedJson::array();
  for (const ExpertTiming& timing : timings) {
    experts.push_back({{"tokens", timing.tokens},
                       {"ms", 1e3 * timing.seconds},
                       {"gbps", timing.gbps},
                       {"gflops", timing.gflops},
                       {"percent_of_read", timing.percent_of_read},
                       {"percent_of_peak", timing.percent_of_peak},
                       {"times_one_token", timing.times_one_token}});
  }
  const OrderedJson limits = LimitsJson(LimitProbe(session.kernels(), session.pool()).MeasureAll());
  const OrderedJson result = {{"model", session.config().name},
                              {"isa", session.kernels().isa},
                              {"threads", session.pool().num_threads()},
                              {"format", FormatName(TypicalFfn(session.model().weights).format)},
                              {"limits", limits},
                              {"cached_layer_us", layer_us},
                              {"experts", experts}};
  if (options.json) return WriteJson(result);
  PrintLimits(limits);
  WriteOutput("tokens on one expert        ms     GB/s   of read   GFLOP/s   of peak   times one token\n");
  for (const ExpertTiming& timing : timings) {
    WriteOutput(fmt::format("{:>20} {:>9.3f} {:>8.1f} {:>8.1f}% {:>9.0f} {:>8.1f}% {:>17.2f}\n",
                            timing.tokens, 1e3 * timing.seconds, timing.gbps, timing.percent_of_read,
                            timing.gflops, timing.percent_of_peak, timing.times_one_token));
  }
  WriteOutput(
      fmt::format("a MoE layer that is all in the caches (64 x 64, 2 of 8 experts): {:.1f} us\n", layer_us));
}

void BenchLimits(const BenchOptions& options) {
  const CpuKernels& kernels = BestKernels();
  const Topology topology = DiscoverTopology();
  ThreadPool pool(options.model.threads > 0 ? options.model.threads : topology.DefaultThreads(), topology);
  const OrderedJson limits = LimitsJson(LimitProbe(kernels, pool).MeasureAll());
  if (!options.json) return PrintLimits(limits);
  WriteJson({{"isa", kernels.isa}, {"threads", pool.num_threads()}, {"limits", limits}});
}

}  // namespace

void RegisterBench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App& verb = *app.add_subcommand("bench", "speed of prefill and decode, medians of repeated rounds");
  const auto add_count = [&](const char* names, int64_t& value, const char* what) {
    verb.add_option(names, value, what)
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
        ->capture_default_str();
  };
  options->model.Register(verb);
  verb.get_option("MODEL")->required(false);
  options->device.Register(verb);
  verb.add_option(
          "--scenarios", options->scenarios,
          "with a device: a JSON array of {policy, prompt, gen, batch} to run on the model, loaded once")
      ->check(CLI::ExistingFile);
  add_count("--prompt", options->prompt_tokens, "tokens of each prompt");
  add_count("--gen", options->generated_tokens, "tokens to generate for each");
  add_count("--batch", options->batch, "sequences at once");
  add_count("--repeat", options->repetitions, "rounds");
  verb.add_flag("--limits", options->limits, "what the machine can do at most; no MODEL is needed");
  verb.add_flag("--experts", options->experts, "what 1 to 512 tokens on one expert cost, instead");
  verb.add_flag("--kernels", options->kernels,
                "with a device: what its kernels reach of what it can do, up to --prompt tokens, instead; "
                "nothing is loaded");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] {
    if (options->kernels) return BenchDeviceKernels(*options);
    const bool is_engine = !options->model.model.empty() && !options->experts;
    if (is_engine) options->device.Check();
    if (is_engine && options->device.device != "cpu" && BenchDevice(*options)) return;
    if (!options->scenarios.empty()) throw CLI::ValidationError("--scenarios: needs a --device");
    if (!options->model.model.empty()) return options->experts ? BenchExperts(*options) : Bench(*options);
    if (!options->limits || options->experts) throw CLI::RequiredError("MODEL");
    BenchLimits(*options);
  });
}

}  // namespace fiddler
