// fiddler run: a prompt goes in, its continuation streams out.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/device_session.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "engine/engine.h"
#include "engine/text_stream.h"

namespace fiddler {
namespace {

struct RunOptions {
  ModelOptions model;
  DeviceOptions device;
  std::string prompt;
  std::string prompt_file;
  std::optional<std::string> prompt_ids;
  int64_t max_tokens = 64;
  SamplingParams sampling;
  std::vector<std::string> stop_strings;
  bool ignore_eos = false;
  int64_t context = 0;  // 0: what the prompt and max_tokens need
  bool json = false;
};

std::atomic<bool> interrupted = false;  // what a signal handler may touch

// The first Ctrl-C ends the generation after the current token, a second one the program.
void OnInterrupt(int) {
  interrupted = true;
  std::signal(SIGINT, SIG_DFL);
}

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// What the engine is asked, and the text side of it. Without a tokenizer (ids in, ids out) there is no text.
struct Prompt {
  std::unique_ptr<Tokenizer> tokenizer;
  std::string text;
  std::vector<int32_t> ids;
};

Prompt ReadPrompt(const RunOptions& options, const Session& session) {
  constexpr size_t kMaxPromptBytes = size_t{64} << 20;
  if (options.prompt_ids) {
    Prompt prompt = {.tokenizer = session.FindTokenizer(),
                     .text = {},
                     .ids = ParseTokenIds(*options.prompt_ids, "--prompt-ids", session.spec().vocab_size)};
    if (!prompt.tokenizer && !options.stop_strings.empty()) {
      throw Error("--stop: expected a tokenizer.json beside the weights to find text with, got none");
    }
    return prompt;
  }
  Prompt prompt = {.tokenizer = session.RequireTokenizer(), .text = options.prompt, .ids = {}};
  if (!options.prompt_file.empty()) {
    prompt.text = ReadFile(options.prompt_file == "-" ? "/dev/stdin" : options.prompt_file, kMaxPromptBytes);
  }
  prompt.ids = prompt.tokenizer->Encode(prompt.text, /*add_special_tokens=*/true);
  if (prompt.ids.empty()) throw Error("prompt: expected at least one token, got an empty text");
  return prompt;
}

// Positions the sequence may take, within what the model was made for.
int64_t ChooseContext(const RunOptions& options, const ModelSpec& spec, int64_t prompt_tokens) {
  const int64_t wanted = options.context > 0 ? options.context : prompt_tokens + options.max_tokens;
  if (wanted > spec.max_positions) {
    throw Error("{}: expected at most {} (max_position_embeddings of the model), got {}",
                options.context > 0 ? "--context" : "prompt and -n together", spec.max_positions, wanted);
  }
  return wanted;
}

struct Generation {
  std::vector<int32_t> tokens;
  std::string text;
  const char* finish_reason = "interrupted";
  double first_token_seconds = 0;
  double total_seconds = 0;
  std::optional<ExpertTraffic> traffic;

  double TokensPerSecond() const {  // of decoding: what comes after the first token
    const auto decoded = static_cast<double>(tokens.size()) - 1;
    return decoded > 0 ? decoded / (total_seconds - first_token_seconds) : 0;
  }
};

Generation Generate(const RunOptions& options, Session& session, const Prompt& prompt,
                    const EngineOptions& engine_options) {
  Engine engine(session.model(), session.kernels(), session.pool(), engine_options);
  Request request = {.prompt = prompt.ids,
                     .max_tokens = options.max_tokens,
                     .sampling = options.sampling,
                     .stop_tokens = options.ignore_eos ? std::vector<int32_t>() : session.spec().eos_tokens};
  std::optional<TextStream> stream;
  if (prompt.tokenizer) stream.emplace(*prompt.tokenizer, prompt.ids, options.stop_strings);

  Generation result;
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (!options.json && !text.empty()) WriteOutput(text);
  };
  std::signal(SIGINT, OnInterrupt);
  const auto start = std::chrono::steady_clock::now();
  const SequenceId id = engine.Add(std::move(request));
  while (!engine.idle() && !interrupted) {
    for (const TokenEvent& event : engine.Step()) {
      result.tokens.push_back(event.token);
      result.total_seconds = Seconds(std::chrono::steady_clock::now() - start);
      if (result.tokens.size() == 1) result.first_token_seconds = result.total_seconds;
      if (event.finished) result.finish_reason = *event.finished == FinishReason::kStop ? "stop" : "length";
      if (stream) emit(stream->Push(event.token));
    }
    if (stream && stream->stopped() && engine.Cancel(id)) result.finish_reason = "stop";
  }
  std::signal(SIGINT, SIG_DFL);
  if (stream) {
    emit(stream->Flush());
    if (stream->stopped()) result.finish_reason = "stop";
  }
  if (engine.traffic() != nullptr) result.traffic = *engine.traffic();
  return result;
}

void Run(const RunOptions& options) {
  options.device.Check();
  Session session(options.model);
  const Prompt prompt = ReadPrompt(options, session);
  const int64_t context = ChooseContext(options, session.spec(), static_cast<int64_t>(prompt.ids.size()));
  EngineOptions engine_options = {.max_positions = context, .arithmetic = session.arithmetic()};
  const ForwardLimits limits = LimitsOf(engine_options);
  DeviceSession device(options.device, session);
  session.Load({&limits, 1}, device.budget());
  device.SetUp();
  engine_options.device = device.setup();
  if (!options.json && isatty(STDOUT_FILENO) == 1) WriteOutput(prompt.text);
  const Generation result = Generate(options, session, prompt, engine_options);
  if (options.json) {
    OrderedJson json = {{"model", session.config().name},
                        {"text", result.text},
                        {"token_ids", result.tokens},
                        {"tokens", result.tokens.size()},
                        {"prompt_tokens", prompt.ids.size()},
                        {"finish_reason", result.finish_reason},
                        {"load_s", session.load_seconds()},
                        {"ttft_s", result.first_token_seconds},
                        {"tokens_per_s", result.TokensPerSecond()}};
    if (result.traffic) json["expert_slices"] = DescribeTraffic(*result.traffic);
    return WriteJson(json);
  }
  if (!prompt.tokenizer) WriteOutput(fmt::format("{}", fmt::join(result.tokens, ",")));
  WriteOutput("\n");
  Note("{} prompt tokens, first token after {:.3f} s; {} tokens, {:.1f} tokens/s{}", prompt.ids.size(),
       result.first_token_seconds, result.tokens.size(), result.TokensPerSecond(),
       interrupted ? "; interrupted" : "");
  if (result.traffic) NoteTraffic(*result.traffic);
  device.NotePinning();
}

}  // namespace

void RegisterRun(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App& verb = *app.add_subcommand("run", "continue a prompt; the text streams to stdout");
  options->model.Register(verb);
  options->device.Register(verb);
  CLI::Option_group& input = *verb.add_option_group("prompt");
  input.require_option(1);
  input.add_option("-p,--prompt", options->prompt, "the text to continue");
  input.add_option("-f,--prompt-file", options->prompt_file, "a file with the text to continue; - is stdin");
  input.add_option("--prompt-ids", options->prompt_ids, "token ids to continue, separated by commas");
  verb.add_option("-n,--max-tokens", options->max_tokens, "tokens to generate")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  verb.add_option("--temp", options->sampling.temperature, "temperature; 0 takes the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  verb.add_option("--top-k", options->sampling.top_k, "sample from the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb.add_option("--top-p", options->sampling.top_p,
                  "sample from the likeliest tokens that reach this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  verb.add_option("--min-p", options->sampling.min_p,
                  "drop tokens below this share of the likeliest one's probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  verb.add_option("--repeat-penalty", options->sampling.repetition_penalty,
                  "above 1: make seen tokens less likely")
      ->check(CLI::Range(1e-3, 100.0))
      ->capture_default_str();
  verb.add_option("--seed", options->sampling.seed, "seed of sampling")->capture_default_str();
  verb.add_option("--stop", options->stop_strings, "end before this text; may be given more than once")
      ->allow_extra_args(false);
  verb.add_flag("--ignore-eos", options->ignore_eos, "go on after an end-of-text token");
  verb.add_option("-c,--context", options->context, "positions to reserve (default: prompt + max tokens)")
      ->check(CLI::PositiveNumber);
  verb.add_flag("--json", options->json, "print one JSON object instead of streaming");
  verb.callback([options] { Run(*options); });
}

}  // namespace fiddler
