#include "sim/layer_ceiling.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace fiddler {
namespace {

// The largest value of a concave function on [0, 1], by golden sections; never too large.
template <typename Function>
double MaxOnUnit(const Function& f) {
  constexpr double kGolden = 0.6180339887498949;
  constexpr int kSections = 24;  // down to 1e-5
  double low = 0;
  double high = 1;
  double left = high - kGolden;
  double right = kGolden;
  double at_left = f(left);
  double at_right = f(right);
  double best = std::max(at_left, at_right);
  for (int i = 0; i < kSections; ++i) {
    if (at_left < at_right) {
      low = left;
      left = right;
      at_left = at_right;
      right = low + kGolden * (high - low);
      at_right = f(right);
      best = std::max(best, at_right);
    } else {
      high = right;
      right = left;
      at_right = at_left;
      left = high - kGolden * (high - low);
      at_left = f(left);
      best = std::max(best, at_left);
    }
  }
  return best;
}

// Where two lines a + b x meet, within [0, end].
double Meet(double a, double b, double other_a, double other_b, double end) {
  if (b == other_b) return 0;
  return std::clamp((other_a - a) / (b - other_b), 0.0, end);
}

}  // namespace

LayerCeiling::LayerCeiling(size_t max_experts) { groups_.reserve(max_experts); }

double LayerCeiling::Seconds(std::span<const ExpertLoad> loads, const CostModel& cost) {
  groups_.clear();
  for (const ExpertLoad& load : loads) {
    auto group = std::find_if(groups_.begin(), groups_.end(),
                              [&](const Group& other) { return other.tokens == load.tokens; });
    if (group == groups_.end()) {
      CHECK(groups_.size() < groups_.capacity(), "{} experts", loads.size());
      const auto tokens = static_cast<double>(load.tokens);
      groups_.push_back({.tokens = load.tokens,
                         .cpu_seconds = cost.cpu.Seconds(tokens),
                         .gpu_seconds = cost.has_gpu ? cost.gpu.Seconds(tokens) : 0});
      group = std::prev(groups_.end());
    }
    group->resident += static_cast<double>(load.resident);
    group->missing += static_cast<double>(load.missing);
  }

  double missing = 0;
  double slices = 0;
  double cpu = 0;
  double gpu = 0;
  for (const Group& group : groups_) {
    const double all = group.resident + group.missing;
    missing += group.missing;
    slices += all;
    cpu += all * group.cpu_seconds;
    gpu += all * group.gpu_seconds;
  }
  if (slices == 0) return 0;
  const double cpu_alone = std::max(cost.cpu_start + cpu, slices * cost.dram_slice_seconds);
  if (!cost.has_gpu) return cpu_alone;
  const double gpu_alone =
      std::max({cost.gpu_start + gpu, missing * cost.link_slice_seconds, missing * cost.dram_slice_seconds});
  const double shared = groups_.size() == 1 ? OneGroup(groups_.front(), cost) : SharedBound(cost);
  return std::min({cpu_alone, gpu_alone, shared});
}

// Either some missing slices are fetched or the CPU takes some resident ones: the first shortens the CPU's
// time and lengthens the GPU's and the link's, the second the reverse, so the best is where the lines meet.
double LayerCeiling::OneGroup(const Group& group, const CostModel& cost) const {
  const double cpu = cost.cpu_start + group.missing * group.cpu_seconds;
  const double gpu = cost.gpu_start + group.resident * group.gpu_seconds;
  const double dram = group.missing * cost.dram_slice_seconds;
  const auto with_fetched = [&](double x) {
    return std::max(
        {cpu - x * group.cpu_seconds, gpu + x * group.gpu_seconds, x * cost.link_slice_seconds, dram});
  };
  const auto with_given = [&](double x) {
    return std::max(
        {cpu + x * group.cpu_seconds, gpu - x * group.gpu_seconds, dram + x * cost.dram_slice_seconds});
  };
  // CPU against GPU and against the link: the earlier meeting is where the CPU stops being the latest.
  const double fetched = std::min(Meet(cpu, -group.cpu_seconds, gpu, group.gpu_seconds, group.missing),
                                  Meet(cpu, -group.cpu_seconds, 0, cost.link_slice_seconds, group.missing));
  const double given = std::min(Meet(cpu, group.cpu_seconds, gpu, -group.gpu_seconds, group.resident),
                                Meet(dram, cost.dram_slice_seconds, gpu, -group.gpu_seconds, group.resident));
  return std::min(with_fetched(fetched), with_given(given));
}

// For any weights that add up to 1, the latest of CPU, GPU and link is at least their weighted sum, which is
// least where every slice goes to its cheaper place. The best weights are the dual of the linear program that
// cuts slices at will.
double LayerCeiling::SharedBound(const CostModel& cost) const {
  double missing = 0;
  for (const Group& group : groups_) missing += group.missing;
  const double best = MaxOnUnit([&](double cpu_weight) {
    return MaxOnUnit([&](double gpu_share) {
      const double rest = 1 - cpu_weight;
      return Weighted(cpu_weight, rest * gpu_share, rest * (1 - gpu_share), cost);
    });
  });
  return std::max(best, missing * cost.dram_slice_seconds);
}

double LayerCeiling::Weighted(double cpu_weight, double gpu_weight, double link_weight,
                              const CostModel& cost) const {
  double sum = cpu_weight * cost.cpu_start + gpu_weight * cost.gpu_start;
  const double link = link_weight * cost.link_slice_seconds;
  for (const Group& group : groups_) {
    const double cpu = cpu_weight * group.cpu_seconds;
    const double gpu = gpu_weight * group.gpu_seconds;
    sum += group.resident * std::min(cpu, gpu) + group.missing * std::min(cpu, gpu + link);
  }
  return sum;
}

}  // namespace fiddler
