// fiddler profile: how often the routers of a model choose each expert on a text. The text is run in windows
// of --context tokens, as eval does; a trace of every choice, and a picture, on request.
#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/popularity_chart.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/text_source.h"
#include "cli/window_runner.h"
#include "experts/popularity.h"
#include "sim/drift.h"
#include "sim/routing_trace.h"

namespace fiddler {
namespace {

struct ProfileOptions {
  ModelOptions model;
  TextOptions text;
  int64_t context = 512;
  int64_t max_tokens = 65536;  // of choices in memory: 50 MB for 48 layers and 8 experts a token
  std::string output;
  std::string trace;
  std::string svg;
  bool json = false;
};

// Makes a trace of what the routers choose. A text read in chunks is written down as if it were generated: a
// step is one token.
class TraceRecorder {
 public:
  explicit TraceRecorder(const ModelSpec& spec)
      : trace_({.num_layers = std::ranges::count_if(spec.layers, &LayerSpec::is_moe),
                .num_experts = spec.moe.num_experts,
                .top_k = spec.moe.top_k}) {}

  // Routers come layer by layer.
  void Add(const Routing& routing) {
    chunk_.insert(chunk_.end(), routing.experts.begin(), routing.experts.end());
  }

  // After the last layer of a chunk.
  void EndChunk(int64_t tokens) {
    const auto [layers, experts, top_k] = trace_.geometry();
    std::vector<uint16_t> step(static_cast<size_t>(layers * top_k));
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t layer = 0; layer < layers; ++layer) {
        const auto from = chunk_.begin() + (layer * tokens + token) * top_k;
        std::transform(from, from + top_k, step.begin() + layer * top_k,
                       [](int32_t expert) { return static_cast<uint16_t>(expert); });
      }
      trace_.AddStep(1, step);
    }
    chunk_.clear();
  }

  const RoutingTrace& trace() const { return trace_; }

 private:
  RoutingTrace trace_;
  std::vector<int32_t> chunk_;  // [layers, tokens, top_k]
};

RoutingTrace Record(Session& session, std::span<const int32_t> tokens, size_t context) {
  TraceRecorder recorder(session.spec());
  WindowRunner runner(session.model(), session.arithmetic(), session.kernels(), session.pool(),
                      static_cast<int64_t>(context), /*device=*/nullptr);
  runner.Observe([&](const Routing& routing) { recorder.Add(routing); });
  TerminalProgress progress(TerminalProgress::Unit::kTokens);
  progress.Start("profiling", tokens.size());
  for (size_t window = 0; window < tokens.size(); window += context) {
    const size_t end = std::min(window + context, tokens.size());
    for (size_t first = window; first < end; first += WindowRunner::kChunkTokens) {
      const size_t count = std::min<size_t>(WindowRunner::kChunkTokens, end - first);
      runner.Run(tokens.subspan(first, count), static_cast<int64_t>(first - window));
      recorder.EndChunk(static_cast<int64_t>(count));
      progress.Advance(count);
    }
  }
  progress.Finish();
  return recorder.trace();
}

ExpertPopularity CountChoices(const RoutingTrace& trace, const std::string& family, const std::string& text) {
  const auto [layers, experts, top_k] = trace.geometry();
  ExpertPopularity popularity = {.family = family,
                                 .layers = layers,
                                 .experts = experts,
                                 .top_k = top_k,
                                 .text = text,
                                 .tokens = trace.num_tokens(),
                                 .counts = std::vector<int64_t>(static_cast<size_t>(layers * experts))};
  for (int64_t step = 0; step < trace.num_steps(); ++step) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (const uint16_t expert : trace.Experts(step, layer)) {
        ++popularity.counts[static_cast<size_t>(layer * experts + expert)];
      }
    }
  }
  return popularity;
}

// What a person wants to know before placing experts.
OrderedJson Describe(const ExpertPopularity& popularity, const RoutingTrace& trace) {
  constexpr int64_t kDriftTokens = 100;  // what published figures use
  OrderedJson shares = OrderedJson::array();
  for (const int64_t eighths : {1, 2, 3, 4}) {
    const int64_t top = std::max<int64_t>(1, popularity.experts * eighths / 8);
    shares.push_back({{"experts", top}, {"share", TopShare(popularity, top)}});
  }
  const int64_t quarter = std::max<int64_t>(1, popularity.experts / 4);
  const std::optional<double> drift = TopSetDrift(trace, kDriftTokens, quarter);
  OrderedJson json = {{"family", popularity.family},
                      {"layers", popularity.layers},
                      {"experts", popularity.experts},
                      {"top_k", popularity.top_k},
                      {"text", popularity.text},
                      {"tokens", popularity.tokens},
                      {"most_popular_share", TopShare(popularity, 1)},
                      {"top_shares", shares},
                      {"drift", {{"experts", quarter}, {"window_tokens", kDriftTokens}, {"share", nullptr}}}};
  if (drift) json["drift"]["share"] = *drift;
  return json;
}

void PrintText(const OrderedJson& json) {
  const auto experts = json["experts"].get<int64_t>();
  WriteOutput(fmt::format("{} tokens; {} MoE layers, {} of {} experts a token\n",
                          json["tokens"].get<int64_t>(), json["layers"].get<int64_t>(),
                          json["top_k"].get<int64_t>(), experts));
  WriteOutput(
      fmt::format("the most popular expert of a layer gets {:.1f}% of its choices; all alike: {:.1f}%\n",
                  100 * json["most_popular_share"].get<double>(), 100 / static_cast<double>(experts)));
  for (const OrderedJson& entry : json["top_shares"]) {
    WriteOutput(fmt::format("{:>8} most popular: {:>5.1f}%\n", entry["experts"].get<int64_t>(),
                            100 * entry["share"].get<double>()));
  }
  const OrderedJson& drift = json["drift"];
  if (drift["share"].is_null()) return;
  WriteOutput(fmt::format("of the {} most popular, {:.0f}% are others {} tokens later\n",
                          drift["experts"].get<int64_t>(), 100 * drift["share"].get<double>(),
                          drift["window_tokens"].get<int64_t>()));
}

void Profile(const ProfileOptions& options) {
  Session session(options.model);
  const ModelSpec& spec = session.spec();
  if (std::ranges::none_of(spec.layers, &LayerSpec::is_moe)) {
    throw Error("{}: expected a model with experts, got none", session.config().name);
  }
  const TextTokens text = ReadTokens(options.text, session, /*at_least=*/1);
  const size_t count = std::min(text.ids.size(), static_cast<size_t>(options.max_tokens));
  const int64_t context = std::min({options.context, spec.max_positions, static_cast<int64_t>(count)});
  const ForwardLimits limits = WindowRunner::LimitsFor(session.arithmetic(), context);
  session.Load({&limits, 1});
  if (count < text.ids.size()) {
    Note("note: the first {} of {} tokens of {} (--max-tokens)", count, text.ids.size(), text.file);
  }
  const RoutingTrace trace = Record(session, std::span(text.ids).first(count), static_cast<size_t>(context));
  const ExpertPopularity popularity =
      CountChoices(trace, spec.family, std::filesystem::path(text.file).filename().string());
  if (!options.output.empty()) WritePopularity(popularity, options.output);
  if (!options.trace.empty()) WriteRoutingTrace(trace, options.trace);
  if (!options.svg.empty()) WriteFileAtomically(options.svg, DrawPopularity(popularity));

  OrderedJson json = Describe(popularity, trace);
  if (!options.json) return PrintText(json);
  json["counts"] = OrderedJson::array();
  for (int64_t layer = 0; layer < popularity.layers; ++layer)
    json["counts"].push_back(popularity.Layer(layer));
  WriteJson(json);
}

}  // namespace

void RegisterProfile(CLI::App& app) {
  auto options = std::make_shared<ProfileOptions>();
  CLI::App& verb = *app.add_subcommand("profile", "how often each expert is chosen on a text");
  const auto add_count = [&](const char* name, int64_t& value, int64_t least, const char* what) {
    verb.add_option(name, value, what)->check(CLI::Range(least, int64_t{1} << 31))->capture_default_str();
  };
  options->model.Register(verb);
  options->text.Register(verb);
  add_count("--context", options->context, 1, "tokens in a window");
  add_count("--max-tokens", options->max_tokens, 1, "tokens to read at most");
  verb.add_option("--output", options->output, "file to write the counts to, as JSON");
  verb.add_option("--trace", options->trace, "file to write every choice to, for simulate");
  verb.add_option("--svg", options->svg, "file to draw a heat map of the counts to");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Profile(*options); });
}

}  // namespace fiddler
