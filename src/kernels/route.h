// Which experts a token goes to: softmax over all experts, the top k, their weights. One definition for every
// device that routes on the CPU.
#pragma once

#include <cstdint>

namespace fiddler {

// One token. From its router logits, which become something else, to its experts, highest weight first, ties
// to the lower number, and what their outputs are multiplied with.
struct RouteArgs {
  int64_t num_experts = 0;
  int64_t top_k = 0;           // of 1 to num_experts
  bool renormalize = false;    // weights add up to 1
  float* logits = nullptr;     // [num_experts], overwritten
  int32_t* experts = nullptr;  // [top_k]
  float* weights = nullptr;    // [top_k]
};

void Route(const RouteArgs& args);

}  // namespace fiddler
