#include "plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace fiddler {
namespace {

// "24.1GiB", "97MiB": rounded up, as an option takes it.
std::string AtLeast(uint64_t bytes) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  if (bytes < 1024 * kMiB) return fmt::format("{}MiB", (bytes + kMiB - 1) / kMiB);
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const uint64_t tenths = (10 * bytes + kGiB - 1) / kGiB;
  return fmt::format("{}.{}GiB", tenths / 10, tenths % 10);
}

}  // namespace

MemoryPlan PlanMemory(const MemoryNeeds& needs, const MemoryBudget& budget) {
  CHECK(needs.num_expert_slices >= 0, "{} slices", needs.num_expert_slices);
  CHECK(needs.slice_bytes > 0 || needs.num_expert_slices == 0, "slices without bytes");
  MemoryPlan plan;
  plan.ram_peak_bytes = needs.host_weight_bytes + needs.host_workspace_bytes;
  const bool has_gpu = budget.gpu_memory_bytes > 0;
  if (has_gpu) {
    const uint64_t fixed = needs.device_dense_bytes + needs.kv_bytes + needs.device_workspace_bytes;
    const uint64_t left = budget.gpu_memory_bytes - std::min(fixed, budget.gpu_memory_bytes);
    const auto fit = needs.num_expert_slices == 0 ? 0 : static_cast<int64_t>(left / needs.slice_bytes);
    plan.num_slots = std::min(fit, needs.num_expert_slices);
    plan.vram_peak_bytes = fixed + static_cast<uint64_t>(plan.num_slots) * needs.slice_bytes;
  }
  if (has_gpu) {
    plan.resident_fraction = needs.num_expert_slices == 0 ? 1
                                                          : static_cast<double>(plan.num_slots) /
                                                                static_cast<double>(needs.num_expert_slices);
  }

  if (plan.vram_peak_bytes > budget.gpu_memory_bytes) {
    const uint64_t without_kv = plan.vram_peak_bytes - needs.kv_bytes;
    const std::string shorter =
        without_kv < budget.gpu_memory_bytes
            ? fmt::format(", or a context {}% as long",  // down to a whole percent: it must fit
                          (budget.gpu_memory_bytes - without_kv) * 100 / needs.kv_bytes)
            : "";
    plan.reason = fmt::format(
        "GPU memory: weights that every token passes, keys and values and workspace need {}, got "
        "{}: --gpu-memory {}{} would fit",
        FormatBytes(plan.vram_peak_bytes), FormatBytes(budget.gpu_memory_bytes),
        AtLeast(plan.vram_peak_bytes), shorter);
  } else if (plan.ram_peak_bytes > budget.ram_bytes) {
    // Down to a whole percent: it must fit.
    const uint64_t percent =
        budget.ram_bytes <= needs.host_workspace_bytes
            ? 0
            : (budget.ram_bytes - needs.host_workspace_bytes) * 100 / needs.host_weight_bytes;
    plan.reason =
        fmt::format("RAM: weights and workspace need {}, got {}{}", FormatBytes(plan.ram_peak_bytes),
                    FormatBytes(budget.ram_bytes),
                    percent == 0 ? "" : fmt::format(": weights of {}% of their size would fit", percent));
  }
  plan.fits = plan.reason.empty();
  return plan;
}

}  // namespace fiddler
