#include "sim/hit_rates.h"

#include <algorithm>

#include "base/check.h"
#include "experts/cache_policy.h"
#include "sim/access_list.h"
#include "sim/belady.h"

namespace fiddler {
namespace {

CachePolicy StaticPolicy(const AccessList& list, int32_t num_experts, int32_t slots) {
  std::vector<int64_t> popularity(static_cast<size_t>(num_experts));
  for (const AccessList::Access& access : list.accesses) {
    popularity[static_cast<size_t>(access.expert)] += access.tokens;
  }
  return CachePolicy::Static(popularity, slots);
}

int64_t CountHits(const AccessList& list, const RoutingTrace& trace, CachePolicy policy) {
  int64_t hits = 0;
  std::vector<CacheKey> needed;
  for (int64_t step = 0; step < list.num_steps(); ++step) {
    needed.clear();
    for (const AccessList::Access& access : list.Step(step)) needed.push_back(access.expert);
    policy.AdvanceTokens(trace.tokens(step));
    policy.Pin(needed);
    for (const AccessList::Access& access : list.Step(step)) {
      hits += policy.Touch(access.expert, access.tokens).hit ? 1 : 0;
    }
  }
  return hits;
}

int64_t LayerHits(const AccessList& list, const RoutingTrace& trace, const ReplayOptions& options) {
  const int32_t num_experts = static_cast<int32_t>(trace.geometry().num_experts);
  // More slots than experts are of no use.
  const int32_t slots = static_cast<int32_t>(std::min<int64_t>(options.slots_per_layer, num_experts));
  switch (options.policy) {
    case ReplayPolicy::kStatic:
      return CountHits(list, trace, StaticPolicy(list, num_experts, slots));
    case ReplayPolicy::kLru:
      return CountHits(list, trace, CachePolicy::Lru(num_experts, slots));
    case ReplayPolicy::kDecayedFrequency:
      return CountHits(list, trace, CachePolicy::DecayedFrequency(num_experts, slots, options.decay));
    case ReplayPolicy::kBelady:
      return BeladyHits(list, slots);
  }
  CHECK(false, "policy {}", static_cast<int>(options.policy));
}

}  // namespace

HitCount Replay(const RoutingTrace& trace, const ReplayOptions& options) {
  CHECK(options.slots_per_layer >= 0, "{} slots", options.slots_per_layer);
  HitCount count;
  for (int64_t layer = 0; layer < trace.geometry().num_layers; ++layer) {
    const AccessList list = LayerAccesses(trace, layer);
    count.hits += LayerHits(list, trace, options);
    count.accesses += static_cast<int64_t>(list.accesses.size());
  }
  return count;
}

double MeanDistinctExperts(const RoutingTrace& trace, int64_t window_tokens) {
  CHECK(window_tokens >= 1, "{} tokens", window_tokens);
  const RoutingGeometry& geometry = trace.geometry();
  const int64_t windows = trace.num_tokens() / window_tokens;
  if (windows == 0) return 0;
  int64_t distinct = 0;
  for (int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    std::vector<int64_t> last_window(static_cast<size_t>(geometry.num_experts), -1);  // that had the expert
    int64_t first_token = 0;                                                          // of the step
    for (int64_t step = 0; step < trace.num_steps(); ++step) {
      const std::span<const uint16_t> experts = trace.Experts(step, layer);
      for (size_t i = 0; i < experts.size(); ++i) {
        const int64_t window = (first_token + static_cast<int64_t>(i) / geometry.top_k) / window_tokens;
        if (window >= windows) break;
        int64_t& last = last_window[experts[i]];
        distinct += last == window ? 0 : 1;
        last = window;
      }
      first_token += trace.tokens(step);
    }
  }
  return static_cast<double>(distinct) / static_cast<double>(windows * geometry.num_layers);
}

}  // namespace fiddler
