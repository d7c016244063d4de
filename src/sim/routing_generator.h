// Routing made up to have the statistics of a real model: for simulations of caches and schedules without the
// model at hand. Per layer, token t and expert e
//   logit_e = popularity * g_e + conversation * c_e + token * s_e(t) + Gumbel
// and the top k are the token's experts. g, c and s are normal (0, 1): g belongs to the model, c is drawn
// anew every conversation_tokens tokens, s(t + 1) = persistence * s(t) + noise of the variance that keeps s
// normal.
//
// How near it comes to what was measured: published_routing_test.cc. Fitted to the share of the most popular
// experts and LRU hits; hits of frequencies and of Belady, drift and what layers have in common are not, so
// say nothing about predictors from it.
//
// The same numbers on every machine (sim/variates.h).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "sim/routing_trace.h"
#include "sim/variates.h"

namespace fiddler {

struct RoutingStatistics {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  double popularity = 0;    // the published sg
  double conversation = 0;  // sc
  double token = 0;         // ss
  double persistence = 0;   // rho, in [0, 1)
  int64_t conversation_tokens = 700;
};

struct PublishedRouting {
  std::string_view model;
  RoutingStatistics statistics;
};

// Fitted by others to routing measured on sampled text of six models (shared/facts/roofline.md).
std::span<const PublishedRouting> PublishedRoutings();
// Null if there is no such model.
const RoutingStatistics* FindPublishedRouting(std::string_view model);

// The tokens of one text, one after the other.
class RoutingGenerator {
 public:
  // Generators of one model_seed have the same popular experts; another text_seed is another text. The
  // statistics are CHECKed.
  RoutingGenerator(const RoutingStatistics& statistics, int64_t num_layers, uint64_t model_seed,
                   uint64_t text_seed);

  // The experts of the next token, [num_layers, top_k], highest logit first.
  void NextToken(std::span<uint16_t> experts);

 private:
  void NextLayer(int64_t layer, std::span<uint16_t> experts);

  RoutingStatistics statistics_;
  int64_t num_layers_;
  int64_t tokens_ = 0;
  NormalVariates normal_;
  Rng rng_;
  // [num_layers, num_experts] each
  std::vector<double> popularity_;    // g
  std::vector<double> conversation_;  // c
  std::vector<double> token_;         // s
  std::vector<double> logits_;        // [num_experts]
  std::vector<uint16_t> order_;       // [num_experts]
};

// One text with so many tokens in each step: {128, 1, 1, 1} is a prompt and three decoded tokens.
RoutingTrace GenerateRoutingTrace(const RoutingStatistics& statistics, int64_t num_layers,
                                  std::span<const int64_t> step_tokens, uint64_t seed);

}  // namespace fiddler
