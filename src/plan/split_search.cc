#include "plan/split_search.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace fiddler {
namespace {

int64_t Slices(const SliceGroup& group) { return group.resident + group.missing; }

int64_t GpuSlices(const SliceGroup& group) { return group.resident - group.cpu_resident + group.fetch; }

// Never both: fetching one slice while the CPU takes a resident one of the same cost would only load the
// link.
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
// followed by itself and all later ones, so makespan = max(all GPU work, max_i((i + 1) * link + work of
// i..k)). Within a group the inner maximum is linear in i: its first or its last slice decides.
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
};

namespace {

struct Counts {
  int64_t fetch = 0;
  int64_t cpu_resident = 0;
};

// The best of all (the first F missing slices along one order are fetched, the CPU takes the first C resident
// ones along another). With F the CPU gets less to do and the GPU more, with C the reverse, so the C at which
// the two meet grows with F, and one pass over both suffices. The memory's time falls with neither.
//
// Prices the flow shop as if slices crossed the link in the order they are chosen: exact for the order of the
// groups, never too low for others.
Counts Scan(std::span<const SliceGroup> groups, std::span<const size_t> fetch_order,
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
  const SliceGroup* last_given = nullptr;

  Counts best;
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
    best = {fetch, give_count};
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
    const SliceGroup& next = to_fetch.Next();
    ++fetch;
    cpu_missing -= next.cpu_seconds;
    gpu_work += next.gpu_seconds;
    flow = std::max(flow, static_cast<double>(fetch) * cost.link_slice_seconds) + next.gpu_seconds;
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
    : keys_(max_groups), fetch_order_(max_groups), give_order_(max_groups), best_(max_groups) {}

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
  const bool is_exact = GpuTimeIsFlat(groups);
  // All that is missing passes through the memory once, whoever computes it.
  const double floor = static_cast<double>(missing) * cost.dram_slice_seconds;
  const bool at_floor = keep_seconds == 0 && problem.best_objective <= floor;
  if (!is_exact && !at_floor) {
    if (!Enumerate(problem)) Improve(problem);
  }
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

// A slice saves the CPU its CPU time and costs the GPU its GPU time and the link the same for all. So what to
// fetch first depends on what limits: with the link it is what costs the CPU most, which is exact when GPU
// time is flat (any other choice of as many can be exchanged for it); with the GPU's arithmetic it is what
// costs the CPU most for each second on the GPU; with both, something between, cpu - weight * gpu. What the
// CPU gives back is the reverse.
void SplitSearch::ScanInOrders(Problem& problem) {
  const std::span<SliceGroup> groups = problem.groups;
  const std::span<double> keys(keys_.data(), groups.size());
  const std::span<size_t> fetch_order(fetch_order_.data(), groups.size());
  const std::span<size_t> give_order(give_order_.data(), groups.size());

  const auto scan_by_keys = [&] {
    std::iota(fetch_order.begin(), fetch_order.end(), size_t{0});
    const auto comes_first = [&](size_t a, size_t b) {
      return keys[a] != keys[b] ? keys[a] > keys[b] : a < b;
    };
    if (!std::is_sorted(fetch_order.begin(), fetch_order.end(), comes_first))
      std::sort(fetch_order.begin(), fetch_order.end(), comes_first);
    std::reverse_copy(fetch_order.begin(), fetch_order.end(), give_order.begin());
    const Counts counts =
        Scan(groups, fetch_order, give_order, problem.cost, problem.max_fetch, problem.keep_seconds);
    Take(groups, fetch_order, &SliceGroup::missing, &SliceGroup::fetch, counts.fetch);
    Take(groups, give_order, &SliceGroup::resident, &SliceGroup::cpu_resident, counts.cpu_resident);
    Offer(problem);
  };

  double cpu = 0;
  double gpu = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    keys[i] = groups[i].cpu_seconds;
    cpu += static_cast<double>(Slices(groups[i])) * groups[i].cpu_seconds;
    gpu += static_cast<double>(Slices(groups[i])) * groups[i].gpu_seconds;
  }
  scan_by_keys();
  if (GpuTimeIsFlat(groups)) return;
  for (size_t i = 0; i < groups.size(); ++i)
    keys[i] = groups[i].cpu_seconds / std::max(groups[i].gpu_seconds, std::numeric_limits<double>::min());
  scan_by_keys();
  const double weight = gpu > 0 ? 0.5 * cpu / gpu : 0;
  for (size_t i = 0; i < groups.size(); ++i) keys[i] = groups[i].cpu_seconds - weight * groups[i].gpu_seconds;
  scan_by_keys();
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

// Few slices are the hard case, as each is a large part of the whole, but there are few ways to divide them:
// tries all ways of all groups but the largest, which takes what fits best.
bool SplitSearch::Enumerate(Problem& problem) {
  constexpr int64_t kMaxWays = 128;  // some 10 us
  const std::span<SliceGroup> groups = problem.groups;
  const auto fewer = [](const SliceGroup& a, const SliceGroup& b) { return Slices(a) < Slices(b); };
  const auto largest =
      static_cast<size_t>(std::max_element(groups.begin(), groups.end(), fewer) - groups.begin());
  int64_t ways = 1;
  for (size_t i = 0; i < groups.size() && ways <= kMaxWays; ++i)
    if (i != largest) ways *= Slices(groups[i]) + 1;
  if (ways > kMaxWays) return false;

  for (SliceGroup& group : groups) SetGpuSlices(group, 0);
  for (int64_t way = 0; way < ways; ++way) {
    LineSearch(problem, largest);
    for (size_t i = 0; i < groups.size(); ++i) {  // counts up, the first group fastest
      if (i == largest) continue;
      const int64_t slices = GpuSlices(groups[i]);
      SetGpuSlices(groups[i], slices < Slices(groups[i]) ? slices + 1 : 0);
      if (slices < Slices(groups[i])) break;
    }
  }
  return true;
}

// Moves a few slices of one group and lets another make up for it, as long as that helps.
void SplitSearch::Improve(Problem& problem) {
  // Beyond, the slices are so many that one of them hardly matters, and trying all pairs would take long.
  constexpr size_t kMaxGroups = 16;
  constexpr int64_t kReach = 2;
  constexpr int kMaxRounds = 4;
  const std::span<SliceGroup> groups = problem.groups;
  if (groups.size() > kMaxGroups) return;
  for (int round = 0; round < kMaxRounds; ++round) {
    const double before = problem.best_objective;
    for (size_t moved = 0; moved < groups.size(); ++moved) {
      for (int64_t step = -kReach; step <= kReach; ++step) {
        for (size_t other = 0; other < groups.size(); ++other) {
          for (size_t i = 0; i < groups.size(); ++i) {
            groups[i].fetch = best_[i].fetch;
            groups[i].cpu_resident = best_[i].cpu_resident;
          }
          const int64_t slices = GpuSlices(groups[moved]) + step;
          if (step == 0 || other == moved || slices < 0 || slices > Slices(groups[moved])) continue;
          SetGpuSlices(groups[moved], slices);
          LineSearch(problem, other);
        }
      }
    }
    if (problem.best_objective >= before) return;
  }
}

}  // namespace fiddler
