#include "engine/engine.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

EngineOptions Checked(EngineOptions options) {
  CHECK(options.max_positions >= 1 && options.max_sequences >= 1, "{} positions, {} sequences",
        options.max_positions, options.max_sequences);
  options.max_batch_tokens = std::max(options.max_batch_tokens, options.max_sequences);
  return options;
}

int32_t CountBlocks(const EngineOptions& options) {
  const int64_t blocks = KvCache::BlocksFor(options.max_positions);
  constexpr int64_t kMaxBlocks = std::numeric_limits<BlockId>::max();
  if (blocks > kMaxBlocks / options.max_sequences) {
    throw Error("KV cache: expected at most {} blocks of {} tokens, got {} sequences of {} tokens",
                kMaxBlocks, KvCache::kBlockTokens, options.max_sequences, options.max_positions);
  }
  return static_cast<int32_t>(blocks * options.max_sequences);
}

ForwardLimits LimitsOf(const EngineOptions& options) {
  return {.batch_tokens = options.max_batch_tokens,
          .positions = options.max_positions,
          .sequences = options.max_sequences,
          .kv_blocks = CountBlocks(options),
          .logit_rows = options.max_sequences,
          .arithmetic = options.arithmetic};
}

void ValidateRequest(const Request& request, const ModelSpec& spec, int64_t max_positions) {
  if (request.prompt.empty()) throw Error("prompt: expected at least one token, got none");
  if (request.max_tokens < 1) throw Error("max_tokens: expected at least 1, got {}", request.max_tokens);
  const int64_t room = max_positions - static_cast<int64_t>(request.prompt.size());
  if (request.max_tokens > room) {
    throw Error("prompt and max_tokens: expected at most {} tokens together, got {} + {}", max_positions,
                request.prompt.size(), request.max_tokens);
  }
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= spec.vocab_size) {
      throw Error("prompt: expected token ids below {}, got {}", spec.vocab_size, token);
    }
  }
  Validate(request.sampling);
}

}  // namespace

Engine::Engine(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
               const EngineOptions& options)
    : model_(model),
      options_(Checked(options)),
      blocks_(CountBlocks(options_)),
      forward_(MakeForward(model, kernels, pool, LimitsOf(options_), options.device)),
      scheduler_(blocks_,
                 {.batch_tokens = options_.max_batch_tokens, .max_sequences = options_.max_sequences}) {
  const auto max_sequences = static_cast<size_t>(options_.max_sequences);
  batch_.reserve(max_sequences);
  logit_rows_.reserve(max_sequences);
  events_.reserve(max_sequences);
}

SequenceId Engine::Add(Request request) {
  ValidateRequest(request, model_.spec, options_.max_positions);
  const SequenceId id = next_id_++;
  scheduler_.Add(std::make_unique<Sequence>(id, std::move(request), model_.spec.vocab_size));
  return id;
}

bool Engine::Cancel(SequenceId id) { return scheduler_.Remove(id); }

std::span<const TokenEvent> Engine::Step() {
  events_.clear();
  const std::span<const ScheduledWork> work = scheduler_.Schedule();
  if (!work.empty()) {
    Run(work);
    SampleAndCommit(work);
  }
  for (const TokenEvent& event : events_) {
    if (event.finished) scheduler_.Remove(event.id);
  }
  return events_;
}

void Engine::Run(std::span<const ScheduledWork> work) {
  batch_.clear();
  for (const auto& [sequence, tokens] : work) {
    const auto first = static_cast<size_t>(sequence->num_cached);
    batch_.push_back({.tokens = std::span(sequence->tokens).subspan(first, static_cast<size_t>(tokens)),
                      .first_position = sequence->num_cached,
                      .block_table = sequence->block_table});
  }
  forward_->Run(batch_);
}

void Engine::SampleAndCommit(std::span<const ScheduledWork> work) {
  // Only a sequence whose last token was in the batch has a next token to choose.
  const auto is_complete = [](const ScheduledWork& item) {
    return item.sequence->num_cached + item.tokens == item.sequence->length();
  };
  logit_rows_.clear();
  int64_t row = -1;
  for (const ScheduledWork& item : work) {
    row += item.tokens;
    if (is_complete(item)) logit_rows_.push_back(static_cast<int32_t>(row));
  }
  std::span<float> logits;
  if (!logit_rows_.empty()) logits = forward_->Logits(logit_rows_);

  const auto vocab_size = static_cast<size_t>(model_.spec.vocab_size);
  for (const ScheduledWork& item : work) {
    Sequence& sequence = *item.sequence;
    const bool complete = is_complete(item);
    sequence.num_cached += item.tokens;
    if (!complete) continue;
    const int32_t token = sequence.sampler.Sample(logits.first(vocab_size), sequence.tokens);
    logits = logits.subspan(vocab_size);
    sequence.tokens.push_back(token);

    const std::vector<int32_t>& stops = sequence.request.stop_tokens;
    TokenEvent event = {.id = sequence.id, .token = token, .finished = std::nullopt};
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      event.finished = FinishReason::kStop;
    } else if (sequence.num_generated() == sequence.request.max_tokens) {
      event.finished = FinishReason::kLength;
    }
    events_.push_back(event);
  }
}

}  // namespace fiddler
