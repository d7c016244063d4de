// Runs a text through a model in windows, each by itself from position 0, chunk by chunk.
#pragma once

#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "engine/forward.h"

namespace fiddler {

// One model and what a window needs; keeps nothing between windows. Used by one thread at a time.
class WindowRunner {
 public:
  static constexpr int64_t kChunkTokens = 128;  // tokens and rows of logits computed at once, at most

  // `context`: tokens of a window, at most. `device` may be null. All references must outlive this object.
  WindowRunner(const PackedModel& model, Arithmetic arithmetic, const CpuKernels& kernels, ThreadPool& pool,
               int64_t context, const DeviceSetup* device)
      : blocks_(static_cast<size_t>(KvCache::BlocksFor(context))),
        forward_(MakeForward(model, kernels, pool, LimitsFor(arithmetic, context), device)) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
  }

  // Of its forward pass.
  static ForwardLimits LimitsFor(Arithmetic arithmetic, int64_t context) {
    return {.batch_tokens = kChunkTokens,
            .positions = context,
            .kv_blocks = static_cast<int32_t>(KvCache::BlocksFor(context)),
            .logit_rows = kChunkTokens,
            .arithmetic = arithmetic};
  }

  // Computes these tokens of the window, which begin at `position`; what is before has been run.
  void Run(std::span<const int32_t> tokens, int64_t position) {
    const BatchEntry entry = {.tokens = tokens, .first_position = position, .block_table = blocks_};
    forward_->Run({&entry, 1});
  }

  // Logits [rows, vocab_size] of the first `rows` tokens of the last Run; valid until the next call.
  std::span<const float> Logits(int64_t rows) {
    std::vector<int32_t> indices(static_cast<size_t>(rows));
    std::iota(indices.begin(), indices.end(), 0);
    return forward_->Logits(indices);
  }

  void Observe(RoutingObserver observer) { forward_->Observe(std::move(observer)); }

 private:
  std::vector<BlockId> blocks_;
  std::unique_ptr<Forward> forward_;
};

}  // namespace fiddler
