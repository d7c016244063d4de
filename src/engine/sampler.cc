#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fiddler {
namespace {

using Candidate = Sampler::Candidate;

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.share > b.share || (a.share == b.share && a.token < b.token);
}

// Of logits without NaN.
size_t IndexOfLargest(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double Mass(std::span<const Candidate> candidates) {
  double mass = 0;
  for (const Candidate& candidate : candidates) mass += candidate.share;
  return mass;
}

std::span<Candidate> KeepTopK(std::span<Candidate> candidates, int64_t k) {
  if (k >= static_cast<int64_t>(candidates.size())) return candidates;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), Likelier);
  return candidates.first(static_cast<size_t>(k));
}

// Sorts only as many of the likeliest as it takes to reach p: mostly a few hundred of a vocabulary of
// 150,000.
std::span<Candidate> KeepTopP(std::span<Candidate> candidates, double p) {
  const double enough = p * Mass(candidates);
  double mass = 0;
  size_t sorted = 0;
  for (size_t count = 0; count < candidates.size(); ++count) {
    if (mass >= enough && count > 0) return candidates.first(count);
    if (count == sorted) {
      sorted = std::min(candidates.size(), std::max<size_t>(256, 4 * sorted));
      const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::partial_sort(candidates.begin() + static_cast<std::ptrdiff_t>(count), end, candidates.end(),
                        Likelier);
    }
    mass += candidates[count].share;
  }
  return candidates;
}

std::span<Candidate> KeepMinP(std::span<Candidate> candidates, float p) {
  const auto end =
      std::remove_if(candidates.begin(), candidates.end(), [p](const Candidate& c) { return c.share < p; });
  return {candidates.begin(), end};
}

}  // namespace

void Validate(const SamplingParams& params) {
  const auto require = [](bool fine, const char* name, const char* expected, auto got) {
    if (!fine) throw Error("{}: expected {}, got {}", name, expected, got);
  };
  require(params.temperature >= 0 && params.temperature <= 100, "temperature", "0 to 100",
          params.temperature);
  require(params.top_k >= 0, "top_k", "0 or more", params.top_k);
  require(params.top_p > 0 && params.top_p <= 1, "top_p", "above 0, at most 1", params.top_p);
  require(params.min_p >= 0 && params.min_p <= 1, "min_p", "0 to 1", params.min_p);
  require(params.repetition_penalty > 0 && params.repetition_penalty <= 100, "repetition_penalty",
          "above 0, at most 100", params.repetition_penalty);
}

Sampler::Sampler(const SamplingParams& params, int64_t vocab_size) : params_(params), rng_(params.seed) {
  if (params.repetition_penalty != 1) seen_.resize(static_cast<size_t>(vocab_size));
  if (params.temperature > 0) candidates_.resize(static_cast<size_t>(vocab_size));
}

int32_t Sampler::Sample(std::span<float> logits, std::span<const int32_t> history) {
  if (params_.repetition_penalty != 1) PenalizeRepetition(logits, history);
  std::replace_if(
      logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); }, -INFINITY);
  if (params_.temperature > 0) return Draw(logits);
  return static_cast<int32_t>(IndexOfLargest(logits));
}

void Sampler::PenalizeRepetition(std::span<float> logits, std::span<const int32_t> history) {
  for (int32_t token : history) {
    const auto index = static_cast<size_t>(token);
    if (seen_[index]) continue;  // once a token, however often it occurred
    seen_[index] = true;
    float& logit = logits[index];
    logit = logit < 0 ? logit * params_.repetition_penalty : logit / params_.repetition_penalty;
  }
  for (int32_t token : history) seen_[static_cast<size_t>(token)] = false;
}

int32_t Sampler::Draw(std::span<const float> logits) {
  const float largest = logits[IndexOfLargest(logits)];
  for (size_t i = 0; i < logits.size(); ++i) {
    // The largest may be infinite: its distance to itself is 0 all the same.
    const float distance = logits[i] == largest ? 0 : logits[i] - largest;
    candidates_[i] = {std::exp(distance / params_.temperature), static_cast<int32_t>(i)};
  }
  std::span<Candidate> kept = candidates_;
  if (params_.top_k > 0) kept = KeepTopK(kept, params_.top_k);
  if (params_.top_p < 1) kept = KeepTopP(kept, params_.top_p);
  if (params_.min_p > 0) kept = KeepMinP(kept, params_.min_p);

  double target = rng_.NextUnit() * Mass(kept);
  for (const Candidate& candidate : kept) {
    target -= candidate.share;
    if (target < 0) return candidate.token;
  }
  return std::min_element(kept.begin(), kept.end(), Likelier)->token;  // only where rounding ate the rest
}

}  // namespace fiddler
