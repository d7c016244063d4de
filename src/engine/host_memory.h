// What a model and its engine take, and how many experts memory has room for, before any of it is taken.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/forward.h"
#include "engine/pack_layout.h"

namespace fiddler {

// What LayOut says of the model, for whoever counts: no data.
PackedModel WithoutWeights(const Model& model, const PackFormat& format);

// Bytes of forward passes on the host with these limits, all together: keys and values, workspaces, tables.
uint64_t EngineBytes(const Model& model, const PackFormat& format, const CpuKernels& kernels,
                     ThreadPool& pool, std::span<const ForwardLimits> limits);

// What of a device beside the CPU may be used.
struct DeviceBudget {
  uint64_t bytes = 0;           // none: there is no device
  bool is_host_memory = false;  // the device is emulated
};

// Host memory that forward passes with such a device take: the buffers of the host's side, and of an emulated
// device also what is used of its memory. Throws Error if the model does not fit on the device.
uint64_t DeviceEngineBytes(const Model& model, const PackFormat& format, const CpuKernels& kernels,
                           ThreadPool& pool, const ForwardLimits& limits, const DeviceBudget& device);

// What the process has now, and what nobody counts: the rest of its code, buffers of the threads that read
// and pack, the last huge page of every buffer, what the allocator keeps.
uint64_t ProcessBytes();

struct HostPlan {
  uint64_t dense_bytes = 0;     // of what every token passes, and the embedding
  uint64_t expert_bytes = 0;    // of all routed experts
  uint64_t slot_bytes = 0;      // of one
  int64_t num_experts = 0;      // in all layers
  int64_t expert_slots = 0;     // in memory at a time
  uint64_t smallest_bytes = 0;  // of all memory, with just enough slots to run

  bool all_in_memory() const { return expert_slots == num_experts; }
  bool fits() const { return expert_slots > 0 || num_experts == 0; }
};

// `budget`: what this process may have, with what it has already. An expert_slots of 0 where a model with
// experts does not fit at all: a layer needs room for those of one token, and for one that comes meanwhile.
HostPlan PlanHost(const Model& model, const PackFormat& format, uint64_t engine_bytes, uint64_t budget);

}  // namespace fiddler
