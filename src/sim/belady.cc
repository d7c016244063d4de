#include "sim/belady.h"

#include <limits>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace fiddler {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// Steps at which each access's expert is wanted next, [accesses]; and first of all, by expert.
struct NextUses {
  std::vector<int64_t> after;
  std::unordered_map<int32_t, int64_t> first;
};

NextUses FindNextUses(const AccessList& list) {
  NextUses uses;
  uses.after.resize(list.accesses.size());
  for (int64_t step = list.num_steps() - 1; step >= 0; --step) {
    const size_t first = list.first_of_step[static_cast<size_t>(step)];
    for (size_t i = 0; i < list.Step(step).size(); ++i) {
      const auto [use, is_last] = uses.first.try_emplace(list.accesses[first + i].expert, kNever);
      uses.after[first + i] = use->second;
      use->second = step;
    }
  }
  return uses;
}

}  // namespace

// Keeping an expert from one use to the next is an interval and a hit; at most `slots` intervals may overlap.
// Dropping the one that ends last whenever there are too many leaves the most intervals.
int64_t BeladyHits(const AccessList& list, int64_t slots) {
  CHECK(slots >= 0, "{} slots", slots);
  const NextUses uses = FindNextUses(list);
  std::set<std::pair<int64_t, int32_t>> kept;  // next use, expert
  const auto trim = [&] {
    while (kept.size() > static_cast<size_t>(slots)) kept.erase(std::prev(kept.end()));
  };
  for (const auto& [expert, step] : uses.first) kept.emplace(step, expert);
  trim();
  int64_t hits = 0;
  for (int64_t step = 0; step < list.num_steps(); ++step) {
    const size_t first = list.first_of_step[static_cast<size_t>(step)];
    const size_t end = list.first_of_step[static_cast<size_t>(step) + 1];
    for (size_t i = first; i < end; ++i) {
      const int32_t expert = list.accesses[i].expert;
      hits += static_cast<int64_t>(kept.erase({step, expert}));
      if (uses.after[i] != kNever) kept.emplace(uses.after[i], expert);
    }
    trim();  // not before: a step's experts are all looked up in what the last step left
  }
  return hits;
}

}  // namespace fiddler
