// What fits where: how many slots for slices the GPU's memory leaves, and whether the rest fits in RAM. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace fiddler {

struct MemoryNeeds {
  // On the GPU, if there is one.
  uint64_t device_dense_bytes = 0;      // weights that every token passes, but for the embedding
  uint64_t kv_bytes = 0;                // keys and values of the longest context
  uint64_t device_workspace_bytes = 0;  // activations, buffers of libraries, slots to pass through
  uint64_t slice_bytes = 0;
  int64_t num_expert_slices = 0;  // of all layers

  uint64_t host_weight_bytes = 0;  // weights that stay in RAM
  uint64_t host_workspace_bytes = 0;
};

struct MemoryBudget {
  uint64_t gpu_memory_bytes = 0;  // 0: no GPU; keys and values are in host_workspace_bytes then
  uint64_t ram_bytes = 0;
};

struct MemoryPlan {
  int64_t num_slots = 0;         // to keep slices in
  double resident_fraction = 0;  // of the experts' slices; 1 if there are none, 0 without a GPU
  uint64_t vram_peak_bytes = 0;  // what is needed, also if it does not fit
  uint64_t ram_peak_bytes = 0;
  bool fits = false;
  // Empty if it fits. One line: what is over, and the nearest setting that fits.
  std::string reason;
};

// As many slots as fit. CHECKs that slices have bytes if there are any.
MemoryPlan PlanMemory(const MemoryNeeds& needs, const MemoryBudget& budget);

}  // namespace fiddler
