// How fast the popular experts of a text change: what a placement that is never revised loses.
#pragma once

#include <cstdint>
#include <optional>

#include "sim/routing_trace.h"

namespace fiddler {

// The trace is cut into windows of at least `window_tokens` tokens (whole steps). Of the `top` most popular
// experts of a layer in one window (ties to the lower number), the share that was not among them in the
// window before: mean over layers and windows. Nothing if there are not two whole windows. CHECKs that the
// numbers are positive and `top` is at most num_experts.
std::optional<double> TopSetDrift(const RoutingTrace& trace, int64_t window_tokens, int64_t top);

}  // namespace fiddler
