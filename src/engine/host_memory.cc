#include "engine/host_memory.h"

#include <algorithm>

#include "base/memory.h"
#include "engine/expert_file.h"
#include "engine/host_forward.h"

namespace fiddler {
namespace {

// For what nobody counts: the rest of the program's code, buffers of the threads that read and pack, the
// last huge page of every buffer, what the allocator keeps.
constexpr uint64_t kUncountedBytes = uint64_t{20} << 20;

}  // namespace

uint64_t EngineBytes(const Model& model, const PackFormat& format, const CpuKernels& kernels,
                     ThreadPool& pool, std::span<const ForwardLimits> limits) {
  PackedModel shell;  // without weights
  shell.spec = model.spec();
  shell.weights = LayOut(model, format).weights;
  shell.host_experts = std::make_unique<HostExperts>(ExpertLayersOf(shell.weights));
  uint64_t bytes = 0;
  for (const ForwardLimits& of_one : limits) {
    const HostForward::Needs needs = HostForward::NeedsOf(shell, kernels, pool, of_one);
    bytes += needs.kv_bytes + needs.workspace_bytes;
  }
  return bytes;
}

HostPlan PlanHost(const Model& model, const PackFormat& format, uint64_t engine_bytes, uint64_t budget) {
  HostPlan plan;
  const PackLayout dense = LayOut(model, format, nullptr, ExpertPlace::kElsewhere);
  plan.dense_bytes = dense.bytes;
  plan.num_experts = static_cast<int64_t>(dense.experts_elsewhere.size());
  plan.smallest_bytes = dense.bytes + engine_bytes + ResidentBytes() + kUncountedBytes;
  const uint64_t left = budget - std::min(budget, plan.smallest_bytes);
  if (plan.num_experts == 0) return plan;

  plan.slot_bytes = ExpertSlotBytes(model, format);
  plan.expert_bytes = static_cast<uint64_t>(plan.num_experts) * plan.slot_bytes;
  const int64_t fewest = std::min(model.spec().moe.top_k + 1, plan.num_experts);
  plan.smallest_bytes += static_cast<uint64_t>(fewest) * plan.slot_bytes;
  const auto slots = static_cast<int64_t>(left / plan.slot_bytes);
  plan.expert_slots = slots < fewest ? 0 : std::min(slots, plan.num_experts);
  return plan;
}

}  // namespace fiddler
