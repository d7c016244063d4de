// The engine: requests in, tokens out. A step is schedule -> forward -> sample -> commit.
//
// Used by one thread at a time. Steady-state decoding allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/forward.h"
#include "engine/packed_weights.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "kv/block_pool.h"

namespace fiddler {

struct EngineOptions {
  int64_t max_positions = 4096;  // of one sequence, prompt and output
  int64_t max_sequences = 1;     // running at once
  // In one step: long prompts are cut into chunks of this. Taken as max_sequences where that is more, so that
  // every running sequence gets its token.
  int64_t max_batch_tokens = 512;
  Arithmetic arithmetic = Arithmetic::kFast;
  const DeviceSetup* device = nullptr;  // to compute on beside the CPU; its Device must outlive the engine
};

// Of the forward pass of an engine. Throws Error if its KV cache has more blocks than can be counted.
ForwardLimits LimitsOf(const EngineOptions& options);

// One new token of one sequence.
struct TokenEvent {
  SequenceId id;
  int32_t token;
  std::optional<FinishReason> finished;  // set with the last token of a sequence, which is then gone
};

class Engine {
 public:
  // `model`, `kernels` and `pool` must outlive the engine. Allocates the KV cache for max_sequences of
  // max_positions tokens, and the workspace. Throws Error if memory is short.
  Engine(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool, const EngineOptions& options);

  // Throws Error if the request can never run: no prompt, too long, a token outside the vocabulary, bad
  // parameters.
  SequenceId Add(Request request);

  // The sequence ends without further events; true if it was there.
  bool Cancel(SequenceId id);

  // Computes one batch. The events (none while a prompt is read in chunks) are valid until the next call.
  std::span<const TokenEvent> Step();

  bool idle() const { return scheduler_.idle(); }

  // Who computed the experts so far; null where the CPU does all.
  const ExpertTraffic* traffic() const { return forward_->traffic(); }

  void ObserveRouting(RoutingObserver observer) { forward_->Observe(std::move(observer)); }
  void ObserveLoads(const LoadObserver& observer) { forward_->ObserveLoads(observer); }

 private:
  void Run(std::span<const ScheduledWork> work);
  void SampleAndCommit(std::span<const ScheduledWork> work);

  const PackedModel& model_;
  const EngineOptions options_;
  BlockPool blocks_;
  std::unique_ptr<Forward> forward_;
  Scheduler scheduler_;
  SequenceId next_id_ = 0;

  // Scratch of a step.
  std::vector<BatchEntry> batch_;
  std::vector<int32_t> logit_rows_;
  std::vector<TokenEvent> events_;
};

}  // namespace fiddler
