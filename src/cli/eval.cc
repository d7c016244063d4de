// fiddler eval: perplexity of a model on a text. The text is tokenized once, cut into consecutive windows of
// --context tokens, each run by itself from position 0; all of a window but its first token is scored.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "engine/forward.h"

namespace fiddler {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr int64_t kChunkTokens = 128;  // tokens and rows of logits computed at once

struct EvalOptions {
  ModelOptions model;
  std::string text_file;
  std::string ids_file;
  int64_t context = 512;
  bool per_token = false;
  bool json = false;
};

std::vector<int32_t> ReadTokens(const EvalOptions& options, const Session& session) {
  const int64_t vocab_size = session.spec().vocab_size;
  if (!options.ids_file.empty()) {
    return ParseTokenIds(ReadFile(options.ids_file, kMaxTextBytes), options.ids_file, vocab_size);
  }
  std::filesystem::path file = options.text_file;
  if (options.text_file.empty()) {
    file = session.config().directory / "heldout.txt";
    std::error_code status;
    if (!std::filesystem::exists(file, status)) {
      throw Error("--text: expected a file to evaluate (or --ids): {} ships no heldout.txt",
                  session.config().name);
    }
  }
  std::vector<int32_t> ids =
      session.RequireTokenizer()->Encode(ReadFile(file, kMaxTextBytes), /*add_special_tokens=*/true);
  for (int32_t id : ids) {
    if (id >= vocab_size) {
      throw Error("{}: expected token ids below vocab_size {}, got {}", file.string(), vocab_size, id);
    }
  }
  return ids;
}

// -log of the probability the logits give to `token`.
double NegativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float logit : logits) total += std::exp(logit - largest);
  return std::log(total) + largest - logits[static_cast<size_t>(token)];
}

// Runs windows of a text; keeps nothing between them.
class Evaluator {
 public:
  Evaluator(Session& session, int64_t context)
      : spec_(session.model().spec()),
        cache_({spec_.num_layers(), spec_.attention.num_kv_heads, spec_.attention.head_dim},
               static_cast<int32_t>(KvCache::BlocksFor(context))),
        forward_(session.model(), session.kernels(), session.pool(), cache_,
                 {.batch_tokens = kChunkTokens, .positions = context, .logit_rows = kChunkTokens}),
        pool_(session.pool()) {
    while (const std::optional<BlockId> block = cache_.pool().TryTake()) blocks_.push_back(*block);
  }

  // Appends the loss of every token of the window but the first.
  void Score(std::span<const int32_t> window, std::vector<double>& losses) {
    const auto size = static_cast<int64_t>(window.size());
    for (int64_t first = 0; first < size; first += kChunkTokens) {
      const int64_t count = std::min(kChunkTokens, size - first);
      const BatchEntry entry = {
          .tokens = window.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
          .first_position = first,
          .block_table = blocks_};
      forward_.Run({&entry, 1});
      const int64_t scored = std::min(count, size - first - 1);  // the last token predicts nothing
      std::vector<int32_t> rows(static_cast<size_t>(scored));
      std::iota(rows.begin(), rows.end(), 0);
      const std::span<const float> logits = forward_.Logits(rows);
      const size_t base = losses.size();
      losses.resize(base + rows.size());
      pool_.ParallelFor(scored, [&](int64_t row, int) {
        const auto vocab = static_cast<size_t>(spec_.vocab_size);
        losses[base + static_cast<size_t>(row)] =
            NegativeLogLikelihood(logits.subspan(static_cast<size_t>(row) * vocab, vocab),
                                  window[static_cast<size_t>(first + row + 1)]);
      });
    }
  }

 private:
  const ModelSpec& spec_;
  KvCache cache_;
  Forward forward_;
  ThreadPool& pool_;
  std::vector<BlockId> blocks_;
};

void Eval(const EvalOptions& options) {
  Session session(options.model);
  const std::vector<int32_t> tokens = ReadTokens(options, session);
  if (tokens.size() < 2) {
    throw Error("{}: expected at least two tokens, got {}", options.ids_file.empty() ? "--text" : "--ids",
                tokens.size());
  }
  const int64_t context = std::min(options.context, session.spec().max_positions);
  session.Load();

  Evaluator evaluator(session, context);
  std::vector<double> losses;
  losses.reserve(tokens.size());
  TerminalProgress progress(TerminalProgress::Unit::kTokens);
  progress.Start("evaluating", tokens.size());
  const auto start = std::chrono::steady_clock::now();
  for (size_t first = 0; first + 1 < tokens.size(); first += static_cast<size_t>(context)) {
    const size_t count = std::min(static_cast<size_t>(context), tokens.size() - first);
    evaluator.Score(std::span(tokens).subspan(first, count), losses);
    progress.Advance(count);
  }
  progress.Finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double mean = std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
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
}

}  // namespace

void RegisterEval(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App& verb = *app.add_subcommand("eval", "perplexity of a model on a text");
  options->model.Register(verb);
  CLI::Option* text =
      verb.add_option("--text", options->text_file, "file to evaluate (default: the model's heldout.txt)");
  verb.add_option("--ids", options->ids_file, "file of token ids separated by white space")->excludes(text);
  verb.add_option("--context", options->context, "tokens in a window")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 31))
      ->capture_default_str();
  verb.add_flag("--per-token", options->per_token, "also print the loss of every token");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Eval(*options); });
}

}  // namespace fiddler
