#include "engine/forward.h"

#include "base/check.h"
#include "engine/device_forward.h"
#include "engine/host_forward.h"

namespace fiddler {

DType KvTypeFor(const PackedModel& model, Arithmetic arithmetic) {
  const bool rounded = FastRounding(model.weights.layers.front().q.format) != Rounding::kNone;
  return arithmetic == Arithmetic::kFast && rounded ? DType::kBF16 : DType::kF32;
}

KvGeometry KvGeometryOf(const PackedModel& model, Arithmetic arithmetic) {
  return {.num_layers = model.spec.num_layers(),
          .num_kv_heads = model.spec.attention.num_kv_heads,
          .head_dim = model.spec.attention.head_dim,
          .dtype = KvTypeFor(model, arithmetic)};
}

std::unique_ptr<Forward> MakeForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                     const ForwardLimits& limits, const DeviceSetup* device) {
  if (device == nullptr) return std::make_unique<HostForward>(model, kernels, pool, limits);
  return std::make_unique<DeviceForward>(model, kernels, pool, limits, *device);
}

void Forward::CheckBatch(std::span<const BatchEntry> batch, const ModelSpec& spec,
                         const ForwardLimits& limits) {
  CHECK(CountTokens(batch) <= limits.batch_tokens, "{} tokens", CountTokens(batch));
  CHECK(std::ssize(batch) <= limits.sequences, "{} sequences", batch.size());
  for (const BatchEntry& entry : batch) {
    const int64_t end = entry.first_position + static_cast<int64_t>(entry.tokens.size());
    CHECK(end <= limits.positions, "position {} of {}", end, limits.positions);
    for (const int32_t token : entry.tokens) CHECK(token >= 0 && token < spec.vocab_size, "token {}", token);
  }
}

}  // namespace fiddler
