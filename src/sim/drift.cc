#include "sim/drift.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/check.h"

namespace fiddler {
namespace {

// [num_experts], true for the `top` largest counts.
std::vector<bool> TopSet(const std::vector<int64_t>& counts, int64_t top) {
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  std::vector<bool> is_top(counts.size());
  for (int64_t i = 0; i < top; ++i) is_top[order[static_cast<size_t>(i)]] = true;
  return is_top;
}

}  // namespace

std::optional<double> TopSetDrift(const RoutingTrace& trace, int64_t window_tokens, int64_t top) {
  const RoutingGeometry& geometry = trace.geometry();
  CHECK(window_tokens > 0 && top > 0 && top <= geometry.num_experts, "{} tokens, top {}", window_tokens, top);
  int64_t changed = 0;
  int64_t compared = 0;
  for (int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    std::vector<int64_t> counts(static_cast<size_t>(geometry.num_experts));
    std::vector<bool> before;
    int64_t tokens = 0;
    for (int64_t step = 0; step < trace.num_steps(); ++step) {
      for (const uint16_t expert : trace.Experts(step, layer)) ++counts[expert];
      tokens += trace.tokens(step);
      if (tokens < window_tokens) continue;
      std::vector<bool> now = TopSet(counts, top);
      if (!before.empty()) {
        for (size_t expert = 0; expert < now.size(); ++expert)
          changed += now[expert] && !before[expert] ? 1 : 0;
        compared += top;
      }
      before = std::move(now);
      std::fill(counts.begin(), counts.end(), 0);
      tokens = 0;
    }
  }
  if (compared == 0) return std::nullopt;
  return static_cast<double>(changed) / static_cast<double>(compared);
}

}  // namespace fiddler
