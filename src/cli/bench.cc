// fiddler bench: speed of reading a prompt (prefill) and of generating (decode), beside the limits of the
// machine: decode is held against reading memory, prefill against float32 arithmetic.
#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/error.h"
#include "calibrate/limits.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "engine/engine.h"

namespace fiddler {
namespace {

struct BenchOptions {
  ModelOptions model;
  int64_t prompt_tokens = 512;
  int64_t generated_tokens = 64;
  int64_t batch = 1;
  int64_t repetitions = 3;
  bool json = false;
};

// Weights a pass reads. Dense ones are read once a step whatever the batch; of the experts, those the router
// chose.
class WeightTraffic {
 public:
  explicit WeightTraffic(const Model& model)
      : spec_(model.spec()), touched_(static_cast<size_t>(spec_.moe.num_experts)) {
    const auto element_bytes = static_cast<double>(DTypeBytes(model.weights.head.dtype));
    const ParameterCount count = CountParameters(spec_);
    expert_bytes_ = 3.0 * static_cast<double>(spec_.hidden * spec_.moe.intermediate) * element_bytes;
    int64_t dense = count.total - count.experts;
    if (!spec_.tied_embeddings) dense -= spec_.vocab_size * spec_.hidden;  // a row of embeddings is nothing
    dense_bytes_ = static_cast<double>(dense) * element_bytes;
  }

  void CountStep() { bytes_ += dense_bytes_; }

  void CountExperts(const Routing& routing) {
    std::fill(touched_.begin(), touched_.end(), false);
    for (int32_t expert : routing.experts) touched_[static_cast<size_t>(expert)] = true;
    bytes_ += expert_bytes_ * static_cast<double>(std::count(touched_.begin(), touched_.end(), true));
  }

  void Reset() { bytes_ = 0; }
  double bytes() const { return bytes_; }

 private:
  const ModelSpec& spec_;
  std::vector<bool> touched_;  // [num_experts], scratch
  double expert_bytes_ = 0;
  double dense_bytes_ = 0;
  double bytes_ = 0;
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

struct Timing {
  double prefill_seconds = 0;
  double decode_seconds = 0;
  double decode_bytes = 0;
};

class Benchmark {
 public:
  Benchmark(const BenchOptions& options, Session& session)
      : options_(options),
        vocab_size_(session.model().spec().vocab_size),
        engine_(session.model(), session.kernels(), session.pool(),
                {.max_positions = options.prompt_tokens + options.generated_tokens + 1,
                 .max_sequences = options.batch}),
        traffic_(session.model()) {
    engine_.ObserveRouting([this](const Routing& routing) { traffic_.CountExperts(routing); });
  }

  // Reads random prompts, then generates for all of them at once. Other tokens in every round: other experts.
  Timing Round(uint64_t seed) {
    Rng rng(seed);
    for (int64_t b = 0; b < options_.batch; ++b) engine_.Add(RandomRequest(rng));
    Timing timing;
    const auto start = Clock::now();
    int64_t first_tokens = 0;
    while (first_tokens < options_.batch) first_tokens += static_cast<int64_t>(engine_.Step().size());
    const auto prefilled = Clock::now();
    traffic_.Reset();
    while (!engine_.idle()) {
      engine_.Step();
      traffic_.CountStep();
    }
    timing.prefill_seconds = std::chrono::duration<double>(prefilled - start).count();
    timing.decode_seconds = std::chrono::duration<double>(Clock::now() - prefilled).count();
    timing.decode_bytes = traffic_.bytes();
    return timing;
  }

 private:
  using Clock = std::chrono::steady_clock;

  Request RandomRequest(Rng& rng) const {
    Request request;
    for (int64_t t = 0; t < options_.prompt_tokens; ++t) {
      request.prompt.push_back(static_cast<int32_t>(rng.NextBits() % static_cast<uint64_t>(vocab_size_)));
    }
    request.max_tokens = options_.generated_tokens + 1;  // the first belongs to the prefill
    return request;
  }

  const BenchOptions& options_;
  const int64_t vocab_size_;
  Engine engine_;
  WeightTraffic traffic_;
};

// Of every round; the limits as they were beside it.
struct Samples {
  std::vector<double> read_gbps;
  std::vector<double> f32_gflops;
  std::vector<double> prefill_rate;  // tokens/s
  std::vector<double> prefill_percent;
  std::vector<double> decode_rate;  // tokens/s
  std::vector<double> decode_gbps;
  std::vector<double> decode_percent;
};

void PrintText(const Json& result) {
  const auto line = [&](const char* phase, const char* rate, const char* unit, const char* limit_name) {
    const Json& figures = result[phase];
    WriteOutput(
        fmt::format("{:<8} {:>5} tokens x {:<3} {:>9.1f} tokens/s {:>8.1f} {:<8} {:>5.1f}% of {:.1f}\n",
                    phase, figures["tokens"].get<int64_t>(), result["batch"].get<int64_t>(),
                    figures["tokens_per_s"].get<double>(), figures[rate].get<double>(), unit,
                    figures["percent_of_limit"].get<double>(), result["limits"][limit_name].get<double>()));
  };
  line("prefill", "gflops", "GFLOP/s", "f32_gflops");
  line("decode", "gbps", "GB/s", "read_gbps");
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void Bench(const BenchOptions& options) {
  Session session(options.model);
  const ModelSpec& spec = session.model().spec();
  if (options.prompt_tokens + options.generated_tokens + 1 > spec.max_positions) {
    throw Error(
        "--prompt and --gen: expected less than {} tokens together (max_position_embeddings), got {} + {}",
        spec.max_positions, options.prompt_tokens, options.generated_tokens);
  }
  Note("{}", session.Description());
  Benchmark benchmark(options, session);
  benchmark.Round(0);  // touches every buffer once; not counted

  LimitProbe probe(session.kernels(), session.pool());
  Samples samples;
  const double flops_per_token = PrefillFlops(spec, options.batch, options.prompt_tokens) /
                                 static_cast<double>(options.batch * options.prompt_tokens);
  for (int64_t r = 1; r <= options.repetitions; ++r) {
    // The limits are measured between the rounds: the machine may not be the same a minute later.
    const double read_gbps = probe.ReadGigabytesPerSecond();
    const double f32_gflops = probe.Float32Gigaflops();
    const Timing timing = benchmark.Round(static_cast<uint64_t>(r));
    const double prefill_rate =
        static_cast<double>(options.batch * options.prompt_tokens) / timing.prefill_seconds;
    const double decode_gbps = timing.decode_bytes / timing.decode_seconds / 1e9;
    samples.read_gbps.push_back(read_gbps);
    samples.f32_gflops.push_back(f32_gflops);
    samples.prefill_rate.push_back(prefill_rate);
    samples.prefill_percent.push_back(100 * prefill_rate * flops_per_token / 1e9 / f32_gflops);
    samples.decode_rate.push_back(static_cast<double>(options.batch * options.generated_tokens) /
                                  timing.decode_seconds);
    samples.decode_gbps.push_back(decode_gbps);
    samples.decode_percent.push_back(100 * decode_gbps / read_gbps);
  }

  const double prefill_rate = Median(samples.prefill_rate);
  const Json result = {
      {"model", session.model().config.name},
      {"isa", session.kernels().isa},
      {"threads", session.pool().num_threads()},
      {"batch", options.batch},
      {"limits", {{"read_gbps", Median(samples.read_gbps)}, {"f32_gflops", Median(samples.f32_gflops)}}},
      {"prefill",
       {{"tokens", options.prompt_tokens},
        {"tokens_per_s", prefill_rate},
        {"gflops", prefill_rate * flops_per_token / 1e9},
        {"percent_of_limit", Median(samples.prefill_percent)}}},
      {"decode",
       {{"tokens", options.generated_tokens},
        {"tokens_per_s", Median(samples.decode_rate)},
        {"gbps", Median(samples.decode_gbps)},
        {"percent_of_limit", Median(samples.decode_percent)}}}};
  if (options.json) {
    WriteJson(result);
  } else {
    PrintText(result);
  }
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
  add_count("--prompt", options->prompt_tokens, "tokens of each prompt");
  add_count("--gen", options->generated_tokens, "tokens to generate for each");
  add_count("--batch", options->batch, "sequences at once");
  add_count("--repeat", options->repetitions, "rounds");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Bench(*options); });
}

}  // namespace fiddler
