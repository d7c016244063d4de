// For tests only: forward passes on a device and the CPU together, for a device that computes with the CPU's
// kernels (device_forward_test.cc) and one that computes with those of a GPU (cuda/whole_model_test.cc).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "device/cuda_testing.h"
#include "engine/device_forward.h"
#include "engine/test_models.h"
#include "io/dummy_weights.h"
#include "kernels/dispatch.h"
#include "kv/kv_cache.h"

namespace fiddler {

// Models of two families with experts of several slices: `shared` ones bring an expert that every token
// passes.
inline ModelConfig ConfigOf(bool shared) {
  ModelConfig config = ReadModelConfig(GoldenModel(shared ? "qwen2-base" : "mixtral-base").string());
  config.spec.moe.intermediate = shared ? 150 : 300;  // 3 and 5 slices of 64, the last not full
  config.spec.moe.num_experts = shared ? 7 : 6;
  config.spec.moe.top_k = shared ? 3 : 2;
  if (shared) config.spec.moe.shared_intermediate = 100;
  return config;
}

inline const PackedModel& ModelOf(bool shared) {
  static const PackedModel models[] = {Pack(MakeDummyModel(ConfigOf(false), 5, DType::kF32)),
                                       Pack(MakeDummyModel(ConfigOf(true), 6, DType::kBF16))};
  return models[shared ? 1 : 0];
}

inline constexpr int64_t kPositions = 70;  // three blocks of the KV cache

inline ForwardLimits Limits() {
  return {.batch_tokens = kPositions,
          .positions = kPositions,
          .sequences = 2,
          .kv_blocks = 7,
          .logit_rows = kPositions,
          .arithmetic = Arithmetic::kExact};
}

// Two sequences that take turns, chunk by chunk, or go together.
struct Script {
  std::vector<int32_t> tokens[2];
  std::vector<std::array<int64_t, 2>> steps;  // tokens of either sequence
  std::vector<bool> looked_at;                // whether anybody wants the logits of a step: a prompt's chunks
                                              // follow each other without a pause

  Script(Rng& rng, int64_t vocab_size) {
    std::array<int64_t, 2> left = {};
    for (size_t s = 0; s < 2; ++s) {
      const uint64_t most = rng.NextBits() % 8 == 0 ? kPositions / 2 : 12;  // seldom across a block's end
      left[s] = static_cast<int64_t>(1 + rng.NextBits() % most);
      for (int64_t t = 0; t < left[s]; ++t) {
        tokens[s].push_back(static_cast<int32_t>(rng.NextBits() % static_cast<uint64_t>(vocab_size)));
      }
    }
    const uint64_t chunk = std::array<uint64_t, 3>{1, 5, kPositions}[rng.NextBits() % 3];
    while (left[0] + left[1] > 0) {
      std::array<int64_t, 2> step = {};
      for (size_t s = 0; s < 2; ++s) {
        step[s] = std::min(left[s], static_cast<int64_t>(rng.NextBits() % (chunk + 1)));
        left[s] -= step[s];
      }
      if (step[0] + step[1] == 0) continue;
      steps.push_back(step);
      looked_at.push_back(left[0] + left[1] == 0 || rng.NextBits() % 2 == 0);
    }
  }

  // Logits of all tokens, in the order they are computed.
  std::vector<float> Run(Forward& forward) const {
    const std::vector<BlockId> tables[] = {{6, 0, 3}, {2, 5, 1}};
    std::array<int64_t, 2> done = {};
    std::vector<float> logits;
    for (size_t i = 0; i < steps.size(); ++i) {
      const std::array<int64_t, 2>& step = steps[i];
      std::vector<BatchEntry> batch;
      for (size_t s = 0; s < 2; ++s) {
        if (step[s] == 0) continue;
        batch.push_back({.tokens = std::span(tokens[s]).subspan(static_cast<size_t>(done[s]),
                                                                static_cast<size_t>(step[s])),
                         .first_position = done[s],
                         .block_table = tables[s]});
        done[s] += step[s];
      }
      forward.Run(batch);
      if (!looked_at[i]) continue;
      std::vector<int32_t> rows(static_cast<size_t>(step[0] + step[1]));
      std::iota(rows.begin(), rows.end(), 0);
      const std::span<float> part = forward.Logits(rows);
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }
};

inline CostModel Cost() {
  return MakeCostModel(FindHardware("rtx4090-ddr5"), {.bytes = 1e6, .flops_per_token = 1e6});
}

inline PolicyFactory Named(std::string_view name) {
  return [name](const PolicyGeometry& geometry, const CostModel& cost) {
    return MakePolicy(name, geometry, cost);
  };
}

inline MemoryNeeds NeedsOf(const PackedModel& model, const ForwardLimits& limits = Limits()) {
  ThreadPool pool(1, DiscoverTopology());
  return DeviceMemoryNeeds(model, BestKernels(), pool, limits);
}

// An emulated device and its use, with room for so many slices of experts.
struct Machine {
  Machine(const PackedModel& model, int64_t slots, const EmulatorOptions& options, PolicyFactory make_policy)
      : Machine(NeedsOf(model), slots, options, std::move(make_policy)) {}
  Machine(const MemoryNeeds& needs, int64_t slots, EmulatorOptions options, PolicyFactory make_policy) {
    options.memory_bytes = needs.device_dense_bytes + needs.kv_bytes + needs.device_workspace_bytes +
                           static_cast<uint64_t>(slots) * needs.slice_bytes;
    device = OpenTestDevice(options);
    setup = {.device = device.get(),
             .make_policy = std::move(make_policy),
             .cost = Cost(),
             .memory_bytes = options.memory_bytes,
             .popularity = {}};
  }

  std::unique_ptr<Device> device;
  DeviceSetup setup;
};

// One sequence from its start, all of it in one batch.
class BatchOfOne {
 public:
  explicit BatchOfOne(std::span<const int32_t> tokens)
      : tokens_(tokens), table_(static_cast<size_t>(KvCache::BlocksFor(std::ssize(tokens)))) {
    std::iota(table_.rbegin(), table_.rend(), 0);
  }

  std::span<const int32_t> tokens() const { return tokens_; }
  ForwardLimits Limits(Arithmetic arithmetic) const {
    return {.batch_tokens = std::ssize(tokens_),
            .positions = std::ssize(tokens_),
            .kv_blocks = static_cast<int32_t>(table_.size()),
            .logit_rows = std::ssize(tokens_),
            .arithmetic = arithmetic};
  }

  // Logits of all tokens.
  std::vector<float> Run(Forward& forward) const {
    const BatchEntry all = {.tokens = tokens_, .block_table = table_};
    forward.Run({&all, 1});
    std::vector<int32_t> rows(tokens_.size());
    std::iota(rows.begin(), rows.end(), 0);
    const std::span<float> logits = forward.Logits(rows);
    return {logits.begin(), logits.end()};
  }

 private:
  std::span<const int32_t> tokens_;
  std::vector<BlockId> table_;
};

// What it gives on a device with room for half of the experts.
inline std::vector<float> LogitsOnDevice(const PackedModel& model, std::span<const int32_t> tokens,
                                         Arithmetic arithmetic, std::string_view policy, ThreadPool& pool,
                                         const EmulatorOptions& options) {
  const BatchOfOne batch(tokens);
  const ForwardLimits limits = batch.Limits(arithmetic);
  const MemoryNeeds needs = NeedsOf(model, limits);
  Machine machine(needs, needs.num_expert_slices / 2, options, Named(policy));
  DeviceForward forward(model, BestKernels(), pool, limits, machine.setup);
  return batch.Run(forward);
}

}  // namespace fiddler
