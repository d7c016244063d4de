#include "plan/split_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace fiddler {
namespace {

int64_t Slices(const SliceGroup& group) { return group.resident + group.missing; }

int64_t GpuSlices(const SliceGroup& group) { return group.resident - group.cpu_resident + group.fetch; }

// Never both: to fetch a slice while the CPU takes a resident one of the same cost would only load the link.
void SetGpuSlices(SliceGroup& group, int64_t slices) {
  group.fetch = std::max<int64_t>(0, slices - group.resident);
  group.cpu_resident = std::max<int64_t>(0, group.resident - slices);
}

// Walks the slices of one kind (missing, resident), group by group in an order.
struct SliceCursor {
  std::span<const SliceGroup> groups;
  std::span<const size_t> order;
  int64_t SliceGroup::*count;
  size_t position = 0;
  int64_t taken = 0;  // of the group at `position`

  const SliceGroup& Next() {  // there must be one
    while (groups[order[position]].*count == taken) {
      ++position;
      taken = 0;
    }
    ++taken;
    return groups[order[position]];
  }
};

// Gives the first `total` slices along the order to the decision, and none of the others.
void Take(std::span<SliceGroup> groups, std::span<const size_t> order, int64_t SliceGroup::*count,
          int64_t SliceGroup::*decision, int64_t total) {
  for (const size_t index : order) {
    SliceGroup& group = groups[index];
    group.*decision = std::min(group.*count, total);
    total -= group.*decision;
  }
}

}  // namespace

double LayerTimes::seconds() const { return std::max({cpu_seconds, gpu_seconds, dram_seconds}); }

// The GPU's makespan is a flow shop with equal copies. Slice i of k fetched arrives at (i + 1) * link and is
// followed by itself and all later ones: makespan = max(all GPU work, max over i of (i + 1) * link + work of
// i..k - 1). Within a group that is linear in i, so its first or its last slice decides.
LayerTimes PredictGroups(std::span<const SliceGroup> groups, const CostModel& cost) {
  double cpu = 0;
  double gpu = 0;
  double flow = 0;  // when the GPU is done with the slices fetched so far, if that is all it does
  int64_t cpu_slices = 0;
  int64_t gpu_slices = 0;
  int64_t fetched = 0;
  for (const SliceGroup& group : groups) {
    const int64_t on_gpu = GpuSlices(group);
    const int64_t on_cpu = Slices(group) - on_gpu;
    cpu_slices += on_cpu;
    gpu_slices += on_gpu;
    cpu += static_cast<double>(on_cpu) * group.cpu_seconds;
    gpu += static_cast<double>(on_gpu) * group.gpu_seconds;
    if (group.fetch == 0) continue;
    const double work = static_cast<double>(group.fetch) * group.gpu_seconds;
    const double first_arrives = static_cast<double>(fetched + 1) * cost.link_slice_seconds;
    fetched += group.fetch;
    const double last_arrives = static_cast<double>(fetched) * cost.link_slice_seconds;
    flow = std::max({flow + work, first_arrives + work, last_arrives + group.gpu_seconds});
  }
  return {.cpu_seconds = cpu_slices == 0 ? 0 : cost.cpu_start + cpu,
          .gpu_seconds = gpu_slices == 0 ? 0 : cost.gpu_start + std::max(gpu, flow),
          .dram_seconds = static_cast<double>(cpu_slices + fetched) * cost.dram_slice_seconds};
}

struct SplitSearch::Problem {
  std::span<SliceGroup> groups;
  const CostModel& cost;
  int64_t max_fetch;
  double keep_seconds;
  double best_objective = std::numeric_limits<double>::infinity();
  // Of Branch.
  double cpu_weight = 0;         // in the bound; the GPU's is what it lacks to 1
  double most_kept_seconds = 0;  // if all were fetched that may be
  int branches_left = 0;
};

namespace {

struct Prefixes {
  int64_t fetch = 0;
  int64_t cpu_resident = 0;
  bool link_limits = false;  // more than the GPU's arithmetic
  double last_ratio = 0;     // CPU time over GPU time of the last slice that is fetched
};

double Ratio(const SliceGroup& group) {
  constexpr double kMost = 1e30;  // finite even if a table says that the GPU takes no time
  return std::min(kMost, group.cpu_seconds / std::max(group.gpu_seconds, std::numeric_limits<double>::min()));
}

// The best of all (the first F missing slices along one order are fetched, the CPU takes the first C resident
// ones along another). With F the CPU gets less to do and the GPU more, with C the reverse, so the C at which
// the two meet grows with F, and one pass over both suffices. The memory's time falls with neither.
//
// Prices the flow shop as if slices crossed the link in the order they are chosen: exact for the order of the
// groups, never too low for others.
Prefixes Scan(std::span<const SliceGroup> groups, std::span<const size_t> fetch_order,
              std::span<const size_t> give_order, const CostModel& cost, int64_t max_fetch,
              double keep_seconds) {
  int64_t missing = 0;
  int64_t resident = 0;
  double cpu_missing = 0;  // seconds the CPU needs for missing slices that are not fetched
  double gpu_work = 0;     // seconds the GPU needs for all it has
  for (const SliceGroup& group : groups) {
    missing += group.missing;
    resident += group.resident;
    cpu_missing += static_cast<double>(group.missing) * group.cpu_seconds;
    gpu_work += static_cast<double>(group.resident) * group.gpu_seconds;
  }
  max_fetch = std::min(max_fetch, missing);

  SliceCursor to_fetch = {groups, fetch_order, &SliceGroup::missing};
  SliceCursor to_give = {groups, give_order, &SliceGroup::resident};
  int64_t fetch = 0;
  int64_t give = 0;
  double given_seconds = 0;  // on the CPU
  double flow = 0;           // as in PredictGroups
  const SliceGroup* last_fetched = nullptr;
  const SliceGroup* last_given = nullptr;

  Prefixes best;
  double best_objective = std::numeric_limits<double>::infinity();
  const auto cpu_side = [&](int64_t give_count, double cpu_given) {
    const double cpu = missing - fetch + give_count == 0 ? 0 : cost.cpu_start + cpu_missing + cpu_given;
    return std::max(cpu, static_cast<double>(missing + give_count) * cost.dram_slice_seconds);
  };
  const auto gpu_side = [&](int64_t give_count, double work) {
    return fetch + resident - give_count == 0 ? 0 : cost.gpu_start + std::max(work, flow);
  };
  const auto offer = [&](int64_t give_count, double seconds) {
    const double objective = seconds - keep_seconds * static_cast<double>(fetch);
    if (objective >= best_objective) return;
    best_objective = objective;
    best.fetch = fetch;
    best.cpu_resident = give_count;
    best.link_limits = static_cast<double>(fetch) * cost.link_slice_seconds > gpu_work;
    best.last_ratio = last_fetched == nullptr ? 0 : Ratio(*last_fetched);
  };

  for (;;) {
    double cpu = cpu_side(give, given_seconds);
    double gpu = gpu_side(give, gpu_work);
    offer(give, std::max(cpu, gpu));
    if (keep_seconds > 0 && last_given != nullptr) {  // without, one less was as good with fewer fetched
      offer(give - 1, std::max(cpu_side(give - 1, given_seconds - last_given->cpu_seconds),
                               gpu_side(give - 1, gpu_work + last_given->gpu_seconds)));
    }
    while (cpu < gpu && give < resident) {
      last_given = &to_give.Next();
      ++give;
      given_seconds += last_given->cpu_seconds;
      gpu_work -= last_given->gpu_seconds;
      cpu = cpu_side(give, given_seconds);
      gpu = gpu_side(give, gpu_work);
      offer(give, std::max(cpu, gpu));
    }
    if (fetch == max_fetch) break;
    if (keep_seconds == 0 && cost.gpu_start + flow >= best_objective) break;  // more would only take longer
    last_fetched = &to_fetch.Next();
    ++fetch;
    cpu_missing -= last_fetched->cpu_seconds;
    gpu_work += last_fetched->gpu_seconds;
    flow = std::max(flow, static_cast<double>(fetch) * cost.link_slice_seconds) + last_fetched->gpu_seconds;
  }
  return best;
}

bool GpuTimeIsFlat(std::span<const SliceGroup> groups) {
  return std::all_of(groups.begin(), groups.end(), [&](const SliceGroup& group) {
    return group.gpu_seconds == groups.front().gpu_seconds;
  });
}

}  // namespace

SplitSearch::SplitSearch(size_t max_groups)
    : best_(max_groups),
      keys_(max_groups),
      fetch_order_(max_groups),
      give_order_(max_groups),
      low_turns_(max_groups),
      high_turns_(max_groups),
      branch_order_(max_groups),
      least_left_(max_groups + 1) {}

void SplitSearch::Minimize(std::span<SliceGroup> groups, const CostModel& cost, int64_t max_fetch,
                           double keep_seconds) {
  CHECK(groups.size() <= best_.size(), "{} groups", groups.size());
  Problem problem = {groups, cost, max_fetch, keep_seconds};
  int64_t missing = 0;
  int64_t resident = 0;
  for (SliceGroup& group : groups) {
    group.fetch = 0;
    group.cpu_resident = 0;
    missing += group.missing;
    resident += group.resident;
  }
  if (max_fetch == 0 && resident == 0) return;  // nothing to decide

  ScanInOrders(problem);
  // All that is missing passes through the memory once, whoever computes it.
  const double floor = static_cast<double>(missing) * cost.dram_slice_seconds;
  const bool is_best = GpuTimeIsFlat(groups) || (keep_seconds == 0 && problem.best_objective <= floor);
  constexpr int64_t kFewSlices = 64;  // of more, one here or there hardly matters
  if (!is_best && missing + resident <= kFewSlices) BranchAndBound(problem);
  for (size_t i = 0; i < groups.size(); ++i) {
    groups[i].fetch = best_[i].fetch;
    groups[i].cpu_resident = best_[i].cpu_resident;
  }
}

void SplitSearch::Offer(Problem& problem) {
  double objective = PredictGroups(problem.groups, problem.cost).seconds();
  if (problem.keep_seconds > 0) {
    for (const SliceGroup& group : problem.groups)
      objective -= problem.keep_seconds * static_cast<double>(group.fetch);
  }
  if (objective >= problem.best_objective) return;
  problem.best_objective = objective;
  for (size_t i = 0; i < problem.groups.size(); ++i)
    best_[i] = {problem.groups[i].fetch, problem.groups[i].cpu_resident};
}

// A slice that is fetched saves the CPU its CPU time, costs the GPU its GPU time, and the link the same for
// all. So what to fetch first depends on what limits:
// - the link: what costs the CPU most. Exact when GPU time is flat, since any other choice of as many slices
//   can be exchanged for it.
// - the GPU's arithmetic: what costs the CPU most for each second on the GPU.
// - both: what has most cpu - weight * gpu. The weight is right when link and arithmetic end together, as in
//   the linear program that cuts slices at will; a few bisections come near enough.
// What the CPU takes first is the reverse.
void SplitSearch::ScanInOrders(Problem& problem) {
  const std::span<SliceGroup> groups = problem.groups;
  const std::span<double> keys(keys_.data(), groups.size());
  const std::span<size_t> fetch_order(fetch_order_.data(), groups.size());
  const std::span<size_t> give_order(give_order_.data(), groups.size());

  const auto scan_by = [&](const auto& key) {
    for (size_t i = 0; i < groups.size(); ++i) keys[i] = key(i);
    std::iota(fetch_order.begin(), fetch_order.end(), size_t{0});
    const auto comes_first = [&](size_t a, size_t b) {
      return keys[a] != keys[b] ? keys[a] > keys[b] : a < b;
    };
    if (!std::is_sorted(fetch_order.begin(), fetch_order.end(), comes_first))
      std::sort(fetch_order.begin(), fetch_order.end(), comes_first);
    std::reverse_copy(fetch_order.begin(), fetch_order.end(), give_order.begin());
    const Prefixes found =
        Scan(groups, fetch_order, give_order, problem.cost, problem.max_fetch, problem.keep_seconds);
    Take(groups, fetch_order, &SliceGroup::missing, &SliceGroup::fetch, found.fetch);
    Take(groups, give_order, &SliceGroup::resident, &SliceGroup::cpu_resident, found.cpu_resident);
    if (problem.keep_seconds == 0)
      for (SliceGroup& group : groups) SetGpuSlices(group, GpuSlices(group));
    Offer(problem);
    return found;
  };

  const auto scan_by_weight = [&](double weight) {
    return scan_by([&](size_t i) { return groups[i].cpu_seconds - weight * groups[i].gpu_seconds; });
  };
  // When a group's turn comes in the order of the last scan: how many missing slices precede its middle.
  const auto keep_turns = [&](std::vector<double>& turns) {
    double before = 0;
    for (const size_t i : fetch_order) {
      turns[i] = before + 0.5 * static_cast<double>(groups[i].missing);
      before += static_cast<double>(groups[i].missing);
    }
  };

  if (scan_by_weight(0).link_limits || GpuTimeIsFlat(groups)) return;
  keep_turns(low_turns_);
  double low = 0;
  double high = scan_by([&](size_t i) { return Ratio(groups[i]); }).last_ratio;
  if (!scan_by_weight(high).link_limits) return;
  keep_turns(high_turns_);
  constexpr int kBisections = 3;
  for (int i = 0; i < kBisections; ++i) {
    const double weight = (low + high) / 2;
    const bool link_limits = scan_by_weight(weight).link_limits;
    keep_turns(link_limits ? high_turns_ : low_turns_);
    (link_limits ? high : low) = weight;
  }
  // Near the right weight many slices can tie: all, if both times are affine in tokens. The orders on its two
  // sides are then opposite, and the best is some of one and some of the other: takes from both in turn.
  low = 0;
  high = 1;
  for (int i = 0; i < kBisections; ++i) {
    const double share = (low + high) / 2;  // of the order in which the link limits
    const Prefixes found = scan_by(
        [&](size_t group) { return -std::min(low_turns_[group] / (1 - share), high_turns_[group] / share); });
    (found.link_limits ? high : low) = share;
  }
}

// With the other groups as they are: the more slices of this one the GPU runs, the later it is done and the
// earlier the CPU and the memory are. The best is where they meet, or one less.
void SplitSearch::LineSearch(Problem& problem, size_t index) {
  SliceGroup& group = problem.groups[index];
  int64_t may_fetch = problem.max_fetch;
  for (size_t i = 0; i < problem.groups.size(); ++i)
    if (i != index) may_fetch -= problem.groups[i].fetch;
  if (may_fetch < 0) return;
  int64_t low = 0;
  int64_t high = group.resident + std::min(group.missing, may_fetch);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    SetGpuSlices(group, middle);
    const LayerTimes times = PredictGroups(problem.groups, problem.cost);
    if (std::max(times.cpu_seconds, times.dram_seconds) <= times.gpu_seconds) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  SetGpuSlices(group, low);
  Offer(problem);
  if (low == 0) return;
  SetGpuSlices(group, low - 1);
  Offer(problem);
}

// Depth first over the groups, those with most work first; the last takes what fits best. A branch ends when
// it cannot be better by kTolerance, not even if slices were cut at will: for any weights that add up to 1,
// the later of CPU and GPU is at least their weighted sum, which is least where each slice goes to its
// cheaper side.
void SplitSearch::Branch(Problem& problem, size_t depth, double cpu, double gpu) {
  constexpr double kTolerance = 0.002;
  const double enough = problem.best_objective - kTolerance * std::abs(problem.best_objective);
  const double cpu_bound = cpu > 0 ? problem.cost.cpu_start + cpu : 0;
  const double gpu_bound = gpu > 0 ? problem.cost.gpu_start + gpu : 0;
  const double together =
      problem.cpu_weight * cpu_bound + (1 - problem.cpu_weight) * gpu_bound + least_left_[depth];
  const double bound = std::max({cpu_bound, gpu_bound, together}) - problem.most_kept_seconds;
  if (bound >= enough || --problem.branches_left < 0) return;

  const size_t index = branch_order_[depth];
  if (depth + 1 == problem.groups.size()) {
    LineSearch(problem, index);
    return;
  }
  SliceGroup& group = problem.groups[index];
  for (int64_t on_gpu = 0; on_gpu <= Slices(group); ++on_gpu) {
    SetGpuSlices(group, on_gpu);
    Branch(problem, depth + 1, cpu + static_cast<double>(Slices(group) - on_gpu) * group.cpu_seconds,
           gpu + static_cast<double>(on_gpu) * group.gpu_seconds);
  }
  SetGpuSlices(group, 0);  // the branches of earlier groups begin with nothing fetched here
}

// Few slices are the hard case, as each is a large part of the whole, but they can be searched.
void SplitSearch::BranchAndBound(Problem& problem) {
  constexpr int kMaxBranches = 500;  // some 20 us
  constexpr int kWeights = 16;
  const std::span<SliceGroup> groups = problem.groups;
  const std::span<size_t> order(branch_order_.data(), groups.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = 0; i < groups.size(); ++i)
    keys_[i] =
        static_cast<double>(Slices(groups[i])) * std::min(groups[i].cpu_seconds, groups[i].gpu_seconds);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return keys_[a] != keys_[b] ? keys_[a] > keys_[b] : a < b; });

  const auto least = [&](const SliceGroup& group, double cpu_weight) {
    return static_cast<double>(Slices(group)) *
           std::min(cpu_weight * group.cpu_seconds, (1 - cpu_weight) * group.gpu_seconds);
  };
  double best_bound = -1;
  for (int i = 0; i <= kWeights; ++i) {
    const double weight = static_cast<double>(i) / kWeights;
    double bound = 0;
    for (const SliceGroup& group : groups) bound += least(group, weight);
    if (bound <= best_bound) continue;
    best_bound = bound;
    problem.cpu_weight = weight;
  }
  least_left_[groups.size()] = 0;
  for (size_t depth = groups.size(); depth-- > 0;)
    least_left_[depth] = least_left_[depth + 1] + least(groups[order[depth]], problem.cpu_weight);
  for (SliceGroup& group : groups) SetGpuSlices(group, 0);
  int64_t may_fetch = 0;
  for (const SliceGroup& group : groups) may_fetch += group.missing;
  problem.most_kept_seconds =
      problem.keep_seconds * static_cast<double>(std::min(problem.max_fetch, may_fetch));
  problem.branches_left = kMaxBranches;
  Branch(problem, 0, 0, 0);
}

}  // namespace fiddler
