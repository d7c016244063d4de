#include "engine/host_memory.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory.h"
#include "engine/device_forward.h"
#include "engine/expert_file.h"
#include "engine/host_forward.h"

namespace fiddler {
PackedModel WithoutWeights(const Model& model, const PackFormat& format) {
  PackedModel shell;
  shell.spec = model.spec();
  shell.weights = LayOut(model, format).weights;
  shell.host_experts = std::make_unique<HostExperts>(ExpertLayersOf(shell.weights));
  return shell;
}

uint64_t ProcessBytes() {
  constexpr uint64_t kUncountedBytes = uint64_t{20} << 20;
  return ResidentBytes() + kUncountedBytes;
}

uint64_t EngineBytes(const Model& model, const PackFormat& format, const CpuKernels& kernels,
                     ThreadPool& pool, std::span<const ForwardLimits> limits) {
  const PackedModel shell = WithoutWeights(model, format);
  uint64_t bytes = 0;
  for (const ForwardLimits& of_one : limits) {
    const HostForward::Needs needs = HostForward::NeedsOf(shell, kernels, pool, of_one);
    bytes += needs.kv_bytes + needs.workspace_bytes;
  }
  return bytes;
}

uint64_t DeviceEngineBytes(const Model& model, const PackFormat& format, const CpuKernels& kernels,
                           ThreadPool& pool, const ForwardLimits& limits, const DeviceBudget& device) {
  const MemoryNeeds needs = DeviceMemoryNeeds(WithoutWeights(model, format), kernels, pool, limits);
  const MemoryPlan plan = PlanMemory(needs, {.gpu_memory_bytes = device.bytes, .ram_bytes = UINT64_MAX});
  if (!plan.fits) throw Error("{}", plan.reason);
  return needs.host_workspace_bytes + (device.is_host_memory ? plan.vram_peak_bytes : 0);
}

HostPlan PlanHost(const Model& model, const PackFormat& format, uint64_t engine_bytes, uint64_t budget) {
  HostPlan plan;
  const PackLayout dense = LayOut(model, format, nullptr, ExpertPlace::kElsewhere);
  plan.dense_bytes = dense.bytes;
  plan.num_experts = static_cast<int64_t>(dense.experts_elsewhere.size());
  plan.smallest_bytes = dense.bytes + engine_bytes + ProcessBytes();
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
