// fiddler eval: perplexity of a model on a text. The text is tokenized once, cut into consecutive windows of
// --context tokens, each run by itself from position 0; all of a window but its first token is scored.
// With --compare the stored weights in exact arithmetic run beside it, and every token's two distributions
// are compared.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/device_session.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/text_source.h"
#include "cli/window_runner.h"

namespace fiddler {
namespace {

struct EvalOptions {
  ModelOptions model;
  DeviceOptions device;
  TextOptions text;
  int64_t context = 512;
  bool compare = false;
  bool per_token = false;
  bool json = false;
};

// log(sum_i exp(logits_i)): what turns logits into the logarithms of probabilities.
double LogSumExp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float logit : logits) total += std::exp(logit - largest);
  return std::log(total) + largest;
}

// What one model says about the token after a position.
struct Prediction {
  std::span<const float> logits;  // [vocab_size]
  double log_sum;

  explicit Prediction(std::span<const float> the_logits)
      : logits(the_logits), log_sum(LogSumExp(the_logits)) {}

  double LogProbability(size_t token) const { return logits[token] - log_sum; }
  double Loss(int32_t token) const { return -LogProbability(static_cast<size_t>(token)); }
  auto Likeliest() const { return std::ranges::max_element(logits) - logits.begin(); }
};

// sum_i p_i log(p_i / q_i) in nats: what is lost by taking q for p.
double KullbackLeibler(const Prediction& p, const Prediction& q) {
  double sum = 0;
  for (size_t i = 0; i < p.logits.size(); ++i) {
    const double log_p = p.LogProbability(i);
    sum += std::exp(log_p) * (log_p - q.LogProbability(i));
  }
  return std::max(sum, 0.0);  // never negative but for rounding
}

// Of every scored token, in the order of the text.
struct Scores {
  std::vector<double> losses;
  std::vector<double> reference_losses;  // this and the following with --compare only
  std::vector<double> divergences;
  std::vector<uint8_t> agreements;  // 1: the same likeliest token

  void Resize(size_t size, bool compare) {
    losses.resize(size);
    if (!compare) return;
    reference_losses.resize(size);
    divergences.resize(size);
    agreements.resize(size);
  }
};

class Evaluator {
 public:
  // `reference`, in exact arithmetic, may be null. All must outlive this object.
  Evaluator(const PackedModel& model, Arithmetic arithmetic, const PackedModel* reference,
            const CpuKernels& kernels, ThreadPool& pool, int64_t context, const DeviceSetup* device)
      : vocab_size_(static_cast<size_t>(model.spec.vocab_size)),
        pool_(pool),
        runner_(model, arithmetic, kernels, pool, context, device) {
    if (reference != nullptr)
      reference_.emplace(*reference, Arithmetic::kExact, kernels, pool, context, nullptr);
  }

  // Appends the scores of every token of the window but the first.
  void Score(std::span<const int32_t> window, Scores& scores) {
    const auto size = static_cast<int64_t>(window.size());
    for (int64_t first = 0; first < size; first += WindowRunner::kChunkTokens) {
      const int64_t count = std::min(WindowRunner::kChunkTokens, size - first);
      const std::span<const int32_t> chunk =
          window.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
      const int64_t scored = std::min(count, size - first - 1);  // the last token predicts nothing
      runner_.Run(chunk, first);
      const std::span<const float> logits = runner_.Logits(scored);
      std::span<const float> reference;
      if (reference_) {
        reference_->Run(chunk, first);
        reference = reference_->Logits(scored);
      }
      const size_t base = scores.losses.size();
      scores.Resize(base + static_cast<size_t>(scored), reference_.has_value());
      pool_.ParallelFor(scored, [&](int64_t row, int) {
        const auto offset = static_cast<size_t>(row) * vocab_size_;
        const size_t i = base + static_cast<size_t>(row);
        const int32_t next = window[static_cast<size_t>(first + row + 1)];
        const Prediction mine(logits.subspan(offset, vocab_size_));
        scores.losses[i] = mine.Loss(next);
        if (!reference_) return;
        const Prediction theirs(reference.subspan(offset, vocab_size_));
        scores.reference_losses[i] = theirs.Loss(next);
        scores.divergences[i] = KullbackLeibler(theirs, mine);
        scores.agreements[i] = theirs.Likeliest() == mine.Likeliest() ? 1 : 0;
      });
    }
  }

 private:
  const size_t vocab_size_;
  ThreadPool& pool_;
  WindowRunner runner_;
  std::optional<WindowRunner> reference_;
};

template <typename T>
double Mean(const std::vector<T>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// What --compare adds: how far the rounded weights are from the stored ones.
OrderedJson DescribeComparison(const Scores& scores) {
  return {{"perplexity", std::exp(Mean(scores.reference_losses))},
          {"mean_kl", Mean(scores.divergences)},
          {"max_kl", std::ranges::max(scores.divergences)},
          {"top1_agreement", Mean(scores.agreements)}};
}

void Eval(const EvalOptions& options) {
  options.device.Check();
  Session session(options.model);
  const TextTokens text = ReadTokens(options.text, session, /*at_least=*/2);
  const std::vector<int32_t>& tokens = text.ids;
  const int64_t context =
      std::min({options.context, session.spec().max_positions, static_cast<int64_t>(tokens.size())});
  const bool quantized = session.quantization() != Quantization::kNone;
  if (options.compare && !quantized && session.arithmetic() == Arithmetic::kExact) {
    throw Error("--compare: expected --quant or --arithmetic fast, got neither: there is nothing to compare");
  }
  if (options.compare && quantized && !options.model.ram.empty()) {
    throw Error("--ram: expected no --compare with --quant, which has both models in memory");
  }
  std::vector<ForwardLimits> limits = {WindowRunner::LimitsFor(session.arithmetic(), context)};
  if (options.compare) limits.push_back(WindowRunner::LimitsFor(Arithmetic::kExact, context));
  DeviceSession device(options.device, session);
  session.Load(limits, device.budget());
  device.SetUp();
  PackedModel stored;  // only where it is not the session's model
  if (options.compare && quantized) stored = session.LoadAs(Quantization::kNone);
  const PackedModel* reference = !options.compare ? nullptr : quantized ? &stored : &session.model();

  Evaluator evaluator(session.model(), session.arithmetic(), reference, session.kernels(), session.pool(),
                      context, device.setup());
  Scores scores;
  TerminalProgress progress(TerminalProgress::Unit::kTokens);
  progress.Start("evaluating", tokens.size());
  const auto start = std::chrono::steady_clock::now();
  for (size_t first = 0; first + 1 < tokens.size(); first += static_cast<size_t>(context)) {
    const size_t count = std::min(static_cast<size_t>(context), tokens.size() - first);
    evaluator.Score(std::span(tokens).subspan(first, count), scores);
    progress.Advance(count);
  }
  progress.Finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::vector<double>& losses = scores.losses;
  const double mean = Mean(losses);
  if (!std::isfinite(mean)) {
    throw Error("{}: expected a finite loss, got {}: the weights are broken", session.config().name, mean);
  }

  if (options.json) {
    OrderedJson json = {{"model", session.config().name},
                        {"perplexity", std::exp(mean)},
                        {"nll_per_token", mean},
                        {"tokens", losses.size()},
                        {"context", context},
                        {"tokens_per_s", static_cast<double>(tokens.size()) / seconds}};
    if (options.compare) json["reference"] = DescribeComparison(scores);
    if (options.per_token) json["nll"] = losses;
    WriteJson(json);
    return;
  }
  if (options.per_token) {
    for (double loss : losses) WriteOutput(fmt::format("{:.6f}\n", loss));
  }
  WriteOutput(fmt::format("perplexity {:.4f} over {} tokens in windows of {}, {:.0f} tokens/s\n",
                          std::exp(mean), losses.size(), context,
                          static_cast<double>(tokens.size()) / seconds));
  if (options.compare) {
    const OrderedJson comparison = DescribeComparison(scores);
    WriteOutput(
        fmt::format("stored weights, exact arithmetic: perplexity {:.4f}; KL divergence from it {:.5f} on "
                    "average, {:.4f} at most; "
                    "the same likeliest token {:.2f}% of the time\n",
                    comparison["perplexity"].get<double>(), comparison["mean_kl"].get<double>(),
                    comparison["max_kl"].get<double>(), 100 * comparison["top1_agreement"].get<double>()));
  }
}

}  // namespace

void RegisterEval(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App& verb = *app.add_subcommand("eval", "perplexity of a model on a text");
  options->model.Register(verb);
  options->device.Register(verb);
  options->text.Register(verb);
  verb.add_option("--context", options->context, "tokens in a window")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 31))
      ->capture_default_str();
  verb.add_flag("--compare", options->compare,
                "compare with the stored weights in exact arithmetic (with --quant both are in memory)");
  verb.add_flag("--per-token", options->per_token, "also print the loss of every token");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Eval(*options); });
}

}  // namespace fiddler
