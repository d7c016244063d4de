#include "kernels/route.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace fiddler {

void Route(const RouteArgs& args) {
  const std::span<float> logits(args.logits, static_cast<size_t>(args.num_experts));
  const float largest = *std::max_element(logits.begin(), logits.end());
  float total = 0;
  for (float& logit : logits) {
    logit = std::exp(logit - largest);  // a probability, but for the common factor
    total += logit;
  }
  // Probabilities are above 0, so -1 marks an expert as taken.
  float chosen = 0;
  for (int64_t k = 0; k < args.top_k; ++k) {
    const auto best = std::max_element(logits.begin(), logits.end());
    args.experts[k] = static_cast<int32_t>(best - logits.begin());
    args.weights[k] = *best / total;
    chosen += args.weights[k];
    *best = -1;
  }
  if (!args.renormalize) return;
  for (int64_t k = 0; k < args.top_k; ++k) args.weights[k] /= chosen;
}

}  // namespace fiddler
