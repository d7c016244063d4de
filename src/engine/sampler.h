// From logits to the next token. Penalties and filters follow Hugging Face transformers in meaning and order:
// repetition penalty, temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"

namespace fiddler {

struct SamplingParams {
  float temperature = 0;         // 0: always the likeliest token
  int64_t top_k = 0;             // keep the k likeliest; 0: all
  float top_p = 1;               // keep the fewest likeliest whose probabilities reach p
  float min_p = 0;               // keep those with at least min_p times the largest probability
  float repetition_penalty = 1;  // > 1 makes every token seen so far less likely
  uint64_t seed = 0;             // same seed, same text
};

// Throws Error naming the first parameter out of its range.
void Validate(const SamplingParams& params);

// One for each sequence. Allocates only at construction.
class Sampler {
 public:
  Sampler(const SamplingParams& params, int64_t vocab_size);

  // The next token, from logits [vocab_size] (overwritten), after `history` (prompt and generated tokens).
  // Ties go to the lower id. A NaN counts as -infinity: a broken model reads badly but breaks nothing else.
  int32_t Sample(std::span<float> logits, std::span<const int32_t> history);

  struct Candidate {
    float share;  // probability relative to the likeliest token's
    int32_t token;
  };

 private:
  void PenalizeRepetition(std::span<float> logits, std::span<const int32_t> history);
  int32_t Draw(std::span<const float> logits);

  const SamplingParams params_;
  Rng rng_;
  std::vector<bool> seen_;             // [vocab_size], scratch of PenalizeRepetition
  std::vector<Candidate> candidates_;  // [vocab_size], scratch of Draw
};

}  // namespace fiddler
