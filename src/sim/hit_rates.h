// What a cache of experts would have reached on a routing trace: every layer has so many slots of its own, an
// expert is kept whole.
//
// What the published tables of hit rates counted was not published with them. published_routing_test.cc found
// what fits: a token's experts are looked up together before any of them is replaced (CachePolicy::Pin),
// nothing is left out as warm-up, and the most popular experts are those of the very text.
#pragma once

#include <cstdint>

#include "sim/routing_trace.h"

namespace fiddler {

enum class ReplayPolicy : uint8_t {
  kStatic,            // the layer's most popular experts of the whole trace
  kLru,               // experts/cache_policy.h, from empty slots
  kDecayedFrequency,  // the same
  kBelady,            // sim/belady.h
};

// Counts fall to a half in 14 tokens. Of 0.7, 0.8, 0.9, 0.95, 0.98 and 0.99 the one that is never far from
// the best: at most 2 points for every model and budget of published_routing_test.cc. On made-up routing;
// measure it on yours.
inline constexpr double kDefaultDecay = 0.95;

struct ReplayOptions {
  ReplayPolicy policy = ReplayPolicy::kLru;
  int64_t slots_per_layer = 0;
  double decay = kDefaultDecay;  // a token; kDecayedFrequency only
};

// An access: a layer needs an expert in a step, however many of the step's tokens chose it. With one token a
// step these are the token's choices.
struct HitCount {
  int64_t hits = 0;
  int64_t accesses = 0;

  double rate() const {
    return accesses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(accesses);
  }
};

HitCount Replay(const RoutingTrace& trace, const ReplayOptions& options);

// How many different experts `window_tokens` tokens in a row choose in a layer: mean over layers and over the
// windows that follow each other from the first token. 0 if there is no whole window.
double MeanDistinctExperts(const RoutingTrace& trace, int64_t window_tokens);

}  // namespace fiddler
