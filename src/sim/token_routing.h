// Where a simulated run gets its tokens' experts from: made up, or a recorded trace.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sim/routing_generator.h"
#include "sim/routing_trace.h"

namespace fiddler {

class TokenRouting {
 public:
  virtual ~TokenRouting() = default;

  // Of the model's MoE layers.
  virtual RoutingGeometry geometry() const = 0;
  // The experts of the sequence's next token, [num_layers, top_k]. Throws Error if there are no more.
  virtual void NextToken(int64_t sequence, std::span<uint16_t> experts) = 0;
  // Tokens that chose an expert in other texts, [num_layers, num_experts]: what a profile of the model would
  // have said before. Empty if nothing is known.
  virtual std::vector<int64_t> Popularity() const = 0;
};

// Every sequence is a text of its own; all of one model.
std::unique_ptr<TokenRouting> MakeUpRouting(const RoutingStatistics& statistics, int64_t num_layers,
                                            int64_t num_sequences, uint64_t seed);

// Its tokens one after the other, whichever sequence asks. `trace` must outlive the result.
std::unique_ptr<TokenRouting> ReplayRouting(const RoutingTrace& trace);

}  // namespace fiddler
