#include "sim/routing_generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace fiddler {
namespace {

constexpr PublishedRouting kPublished[] = {
    {.model = "mixtral-8x7b",
     .statistics = {.num_experts = 8,
                    .top_k = 2,
                    .popularity = 0.06,
                    .conversation = 0.85,
                    .token = 1.00,
                    .persistence = 0.42}},
    {.model = "qwen3-30b-a3b",
     .statistics = {.num_experts = 128,
                    .top_k = 8,
                    .popularity = 0.25,
                    .conversation = 1.52,
                    .token = 1.78,
                    .persistence = 0.995}},
    {.model = "gpt-oss-120b",
     .statistics = {.num_experts = 128,
                    .top_k = 4,
                    .popularity = 0.49,
                    .conversation = 1.95,
                    .token = 0.72,
                    .persistence = 0.93}},
    {.model = "deepseek-v2-lite",
     .statistics = {.num_experts = 64,
                    .top_k = 6,
                    .popularity = 0,
                    .conversation = 0.77,
                    .token = 1.27,
                    .persistence = 0.74}},
    {.model = "olmoe-1b-7b",
     .statistics = {.num_experts = 64,
                    .top_k = 8,
                    .popularity = 1.00,
                    .conversation = 1.51,
                    .token = 2.12,
                    .persistence = 0.68}},
    {.model = "phi-3.5-moe",
     .statistics = {.num_experts = 16,
                    .top_k = 2,
                    .popularity = 0.56,
                    .conversation = 1.01,
                    .token = 1.79,
                    .persistence = 0.90}},
};

// Seeds that have nothing to do with each other, of a seed and what it is for.
uint64_t SubSeed(uint64_t seed, uint64_t purpose) { return Rng(Rng(seed).NextBits() ^ purpose).NextBits(); }

enum Purpose : uint64_t { kPopularity = 1, kText, kNoise };

void FillNormal(NormalVariates& normal, std::span<double> values) {
  for (double& value : values) value = normal.Next();
}

}  // namespace

std::span<const PublishedRouting> PublishedRoutings() { return kPublished; }

const RoutingStatistics* FindPublishedRouting(std::string_view model) {
  for (const PublishedRouting& published : kPublished) {
    if (published.model == model) return &published.statistics;
  }
  return nullptr;
}

RoutingGenerator::RoutingGenerator(const RoutingStatistics& statistics, int64_t num_layers,
                                   uint64_t model_seed, uint64_t text_seed)
    : statistics_(statistics),
      num_layers_(num_layers),
      normal_(SubSeed(text_seed, kText)),
      rng_(SubSeed(text_seed, kNoise)) {
  CHECK(statistics.num_experts >= 1 && statistics.num_experts <= 65536, "{} experts", statistics.num_experts);
  CHECK(statistics.top_k >= 1 && statistics.top_k <= statistics.num_experts, "top {}", statistics.top_k);
  CHECK(statistics.persistence >= 0 && statistics.persistence < 1, "{}", statistics.persistence);
  CHECK(statistics.conversation_tokens >= 1 && num_layers >= 1);
  const size_t cells = static_cast<size_t>(num_layers * statistics.num_experts);
  popularity_.resize(cells);
  conversation_.resize(cells);
  token_.resize(cells);
  logits_.resize(static_cast<size_t>(statistics.num_experts));
  order_.resize(logits_.size());
  NormalVariates model(SubSeed(model_seed, kPopularity));
  FillNormal(model, popularity_);
}

void RoutingGenerator::NextToken(std::span<uint16_t> experts) {
  CHECK(experts.size() == static_cast<size_t>(num_layers_ * statistics_.top_k), "{} experts", experts.size());
  if (tokens_ % statistics_.conversation_tokens == 0) FillNormal(normal_, conversation_);
  if (tokens_ == 0) {
    FillNormal(normal_, token_);
  } else {
    const double rho = statistics_.persistence;
    const double noise = std::sqrt(1 - rho * rho);  // keeps the variance at 1
    for (double& s : token_) s = rho * s + noise * normal_.Next();
  }
  ++tokens_;
  const size_t top_k = static_cast<size_t>(statistics_.top_k);
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    NextLayer(layer, experts.subspan(static_cast<size_t>(layer) * top_k, top_k));
  }
}

void RoutingGenerator::NextLayer(int64_t layer, std::span<uint16_t> experts) {
  const size_t first = static_cast<size_t>(layer) * logits_.size();
  for (size_t e = 0; e < logits_.size(); ++e) {
    logits_[e] = statistics_.popularity * popularity_[first + e] +
                 statistics_.conversation * conversation_[first + e] + statistics_.token * token_[first + e] +
                 NextGumbel(rng_);
  }
  std::iota(order_.begin(), order_.end(), uint16_t{0});
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(experts.size());
  std::partial_sort(order_.begin(), end, order_.end(), [&](uint16_t a, uint16_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;  // as engine/router.h
  });
  std::copy(order_.begin(), end, experts.begin());
}

RoutingTrace GenerateRoutingTrace(const RoutingStatistics& statistics, int64_t num_layers,
                                  std::span<const int64_t> step_tokens, uint64_t seed) {
  RoutingGenerator generator(statistics, num_layers, seed, seed);
  RoutingTrace trace(
      {.num_layers = num_layers, .num_experts = statistics.num_experts, .top_k = statistics.top_k});
  const int64_t top_k = statistics.top_k;
  std::vector<uint16_t> token(static_cast<size_t>(num_layers * top_k));  // [num_layers, top_k]
  std::vector<uint16_t> step;                                            // [num_layers, tokens, top_k]
  for (const int64_t tokens : step_tokens) {
    step.resize(token.size() * static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) {
      generator.NextToken(token);
      for (int64_t layer = 0; layer < num_layers; ++layer) {
        std::copy_n(token.begin() + layer * top_k, top_k, step.begin() + (layer * tokens + t) * top_k);
      }
    }
    trace.AddStep(tokens, step);
  }
  return trace;
}

}  // namespace fiddler
