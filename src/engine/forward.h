// The path of a token through the model, from ids to logits. host_forward.cc computes all of it on the CPU,
// device_forward.cc on a device and the CPU together; both read top to bottom.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "engine/batch.h"
#include "engine/device_setup.h"
#include "engine/ffn.h"
#include "engine/packed_weights.h"
#include "engine/parallel_ops.h"
#include "kv/kv_cache.h"

namespace fiddler {

// Largest shapes a Forward has buffers for.
struct ForwardLimits {
  int64_t batch_tokens = 512;
  int64_t positions = 4096;  // of a sequence
  int64_t sequences = 1;     // in a batch
  int32_t kv_blocks = 128;   // of all sequences
  int64_t logit_rows = 64;
  Arithmetic arithmetic = Arithmetic::kFast;
};

// Keys and values as exact as what they are multiplied with: BF16 where activations are rounded to it or to
// less.
DType KvTypeFor(const PackedModel& model, Arithmetic arithmetic);
KvGeometry KvGeometryOf(const PackedModel& model, Arithmetic arithmetic);

class Forward {
 public:
  virtual ~Forward() = default;

  // Computes the batch and stores its keys and values; the final hidden states stay here until the next Run.
  // Token ids are below vocab_size, positions and batch within the limits (CHECKed).
  virtual void Run(std::span<const BatchEntry> batch) = 0;

  // Logits [rows.size(), vocab_size] of those rows of the last batch, valid until the next call. At most
  // limits.logit_rows of them.
  virtual std::span<float> Logits(std::span<const int32_t> rows) = 0;

  virtual void Observe(RoutingObserver observer) = 0;

  // Calls it before every decision about a layer's experts; never where the CPU does all.
  virtual void ObserveLoads(const LoadObserver& /*observer*/) {}

  // Who computed the experts so far; null where the CPU does all.
  virtual const ExpertTraffic* traffic() const { return nullptr; }

 protected:
  // The token ids and positions of a batch are within the limits.
  static void CheckBatch(std::span<const BatchEntry> batch, const ModelSpec& spec,
                         const ForwardLimits& limits);
};

// The forward pass on `device` and the CPU, or, if that is null, on the CPU alone. All but `device` itself
// must outlive it, the Device too. Throws Error if memory is short.
std::unique_ptr<Forward> MakeForward(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                     const ForwardLimits& limits, const DeviceSetup* device);

}  // namespace fiddler
