#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "io/test_files.h"

namespace fiddler {
namespace {

std::vector<double> Softmax(const std::vector<double>& scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  std::vector<double> shares;
  for (double score : scores) shares.push_back(std::exp(score - largest));
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= total;
  return shares;
}

// Tokens by score, the smallest first.
std::vector<size_t> Ascending(const std::vector<double>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  return order;
}

// transformers/generation/logits_process.py, processor by processor, in double: the probability of each
// token. Also how close the filters came to deciding otherwise.
struct Reference {
  std::vector<double> probabilities;
  double margin = INFINITY;

  Reference(const SamplingParams& params, std::span<const float> logits, std::span<const int32_t> history) {
    std::vector<double> scores(logits.begin(), logits.end());
    for (int32_t token :
         std::set<int32_t>(history.begin(), history.end())) {  // RepetitionPenaltyLogitsProcessor
      double& score = scores[static_cast<size_t>(token)];
      score = score < 0 ? score * params.repetition_penalty : score / params.repetition_penalty;
    }
    for (double& score : scores) score /= params.temperature;                      // TemperatureLogitsWarper
    if (params.top_k > 0 && params.top_k < static_cast<int64_t>(scores.size())) {  // TopKLogitsWarper
      std::vector<double> sorted = scores;
      std::sort(sorted.rbegin(), sorted.rend());
      const double smallest_kept = sorted[static_cast<size_t>(params.top_k) - 1];
      for (double& score : scores) {
        if (score < smallest_kept) score = -INFINITY;
      }
    }
    if (params.top_p < 1) {  // TopPLogitsWarper
      const std::vector<double> shares = Softmax(scores);
      const std::vector<size_t> order = Ascending(scores);
      double cumulative = 0;
      for (size_t i = 0; i + 1 < order.size(); ++i) {  // the last one, the likeliest, always stays
        cumulative += shares[order[i]];
        margin = std::min(margin, std::abs(cumulative - (1 - params.top_p)));
        if (cumulative <= 1 - params.top_p) scores[order[i]] = -INFINITY;
      }
    }
    if (params.min_p > 0) {  // MinPLogitsWarper
      const std::vector<double> shares = Softmax(scores);
      const double bound = params.min_p * *std::max_element(shares.begin(), shares.end());
      for (size_t i = 0; i < scores.size(); ++i) {
        margin = std::min(margin, std::abs(shares[i] - bound));
        if (shares[i] < bound) scores[i] = -INFINITY;
      }
    }
    probabilities = Softmax(scores);
  }
};

int32_t SampleOnce(Sampler& sampler, std::vector<float> logits, std::span<const int32_t> history = {}) {
  return sampler.Sample(logits, history);
}

// Draws often and compares the frequencies with what they should be.
void ExpectDistribution(const SamplingParams& params, const std::vector<float>& logits,
                        std::span<const int32_t> history, const std::vector<double>& probabilities) {
  constexpr int kDraws = 4000;
  Sampler sampler(params, static_cast<int64_t>(logits.size()));
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(SampleOnce(sampler, logits, history))];
  double chi_square = 0;
  int cells = 0;
  for (size_t token = 0; token < counts.size(); ++token) {
    const double expected = probabilities[token] * kDraws;
    if (expected == 0) {
      EXPECT_EQ(counts[token], 0) << "token " << token << " was filtered out";
    } else {
      chi_square += std::pow(counts[token] - expected, 2) / std::max(expected, 1.0);
      ++cells;
    }
  }
  // Mean `cells`, standard deviation sqrt(2 cells): six of them are as good as never exceeded by chance.
  EXPECT_LT(chi_square, cells + 6 * std::sqrt(2 * cells) + 6);
}

TEST(SamplerTest, DrawsAsTransformersWould) {
  constexpr size_t kVocab = 24;
  Rng rng(1);
  int compared = 0;
  for (int round = 0; round < 300; ++round) {
    SamplingParams params;
    params.temperature = static_cast<float>(0.2 + rng.NextUnit() * 2);
    if (rng.NextUnit() < 0.5) params.top_k = 1 + static_cast<int64_t>(rng.NextBits() % (kVocab + 3));
    if (rng.NextUnit() < 0.5) params.top_p = static_cast<float>(0.05 + 0.94 * rng.NextUnit());
    if (rng.NextUnit() < 0.5) params.min_p = static_cast<float>(0.5 * rng.NextUnit());
    if (rng.NextUnit() < 0.5) params.repetition_penalty = static_cast<float>(0.5 + rng.NextUnit() * 2);
    params.seed = rng.NextBits();
    std::vector<float> logits(kVocab);
    for (float& logit : logits) logit = static_cast<float>(rng.NextUnit() * 8 - 4);
    std::vector<int32_t> history(rng.NextBits() % 30);
    for (int32_t& token : history) token = static_cast<int32_t>(rng.NextBits() % kVocab);

    const Reference reference(params, logits, history);
    if (reference.margin < 1e-5) continue;  // float and double may filter differently
    SCOPED_TRACE(fmt::format("round {}: temperature {} top_k {} top_p {} min_p {} penalty {}", round,
                             params.temperature, params.top_k, params.top_p, params.min_p,
                             params.repetition_penalty));
    ExpectDistribution(params, logits, history, reference.probabilities);
    ++compared;
  }
  EXPECT_GT(compared, 280);
}

// More than the few hundred likeliest tokens that KeepTopP sorts at a time.
TEST(SamplerTest, TopPOfALargeFlatVocabulary) {
  constexpr size_t kVocab = 3000;
  std::vector<float> logits(kVocab);
  Rng rng(2);
  for (float& logit : logits) logit = static_cast<float>(rng.NextUnit() * 0.5);
  for (float top_p : {0.01f, 0.2f, 0.5f, 0.9f, 0.999f}) {
    const SamplingParams params = {.temperature = 1, .top_p = top_p};
    const Reference reference(params, logits, {});
    Sampler sampler(params, kVocab);
    std::set<int32_t> drawn;
    constexpr int kDraws = 300;
    for (int i = 0; i < kDraws; ++i) drawn.insert(SampleOnce(sampler, logits));
    for (int32_t token : drawn) EXPECT_GT(reference.probabilities[static_cast<size_t>(token)], 0);
    const auto kept = std::count_if(reference.probabilities.begin(), reference.probabilities.end(),
                                    [](double p) { return p > 0; });
    EXPECT_GT(static_cast<double>(drawn.size()), 0.3 * static_cast<double>(std::min<int64_t>(kept, kDraws)));
  }
}

TEST(SamplerTest, SameSeedSameTokens) {
  const std::vector<float> logits(1000, 0.0f);
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed}, 1000);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(SampleOnce(sampler, logits));
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
  EXPECT_NE(draw(0), draw(uint64_t{1} << 63));
}

TEST(SamplerTest, TemperatureZeroTakesTheLikeliestWhateverTheFilters) {
  Sampler sampler({.temperature = 0, .top_k = 3, .top_p = 0.1f, .min_p = 0.9f}, 5);
  EXPECT_EQ(SampleOnce(sampler, {1, 5, 2, 5, 4}), 1);  // ties go to the lower id
  EXPECT_EQ(SampleOnce(sampler, {-INFINITY, -3, -2, -4, -INFINITY}), 2);
}

TEST(SamplerTest, FiltersAtTheirEnds) {
  const std::vector<float> logits = {1, 3, 3, 2, -1};
  const auto drawn = [&](SamplingParams params) {
    params.temperature = 1;
    Sampler sampler(params, 5);
    std::set<int32_t> tokens;
    for (int i = 0; i < 3000; ++i) tokens.insert(SampleOnce(sampler, logits));
    return tokens;
  };
  const std::set<int32_t> all = {0, 1, 2, 3, 4};
  EXPECT_EQ(drawn({.top_k = 0}), all);
  EXPECT_EQ(drawn({.top_k = 5}), all);
  EXPECT_EQ(drawn({.top_k = INT64_MAX}), all);
  EXPECT_EQ(drawn({.top_k = 1}), (std::set<int32_t>{1}));  // of a tie the lower id
  EXPECT_EQ(drawn({.top_k = 3}), (std::set<int32_t>{1, 2, 3}));
  EXPECT_EQ(drawn({.top_p = 1e-9f}), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn({.top_p = 0.99999994f}), all);
  EXPECT_EQ(drawn({.min_p = 1}), (std::set<int32_t>{1, 2}));
  EXPECT_EQ(drawn({.min_p = 0}), all);
  // In this order: top-p works on what top-k left, where two tokens share everything.
  EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.49f}), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.51f}), (std::set<int32_t>{1, 2}));
}

TEST(SamplerTest, RepetitionPenaltyCountsATokenOnce) {
  Sampler sampler({.repetition_penalty = 2}, 4);
  const std::vector<int32_t> history = {0, 0, 0, 3};
  EXPECT_EQ(SampleOnce(sampler, {4.0f, 2.1f, 1, 1}, history), 1);   // 4 / 2 < 2.1
  EXPECT_EQ(SampleOnce(sampler, {4.4f, 2.1f, 1, 1}, history), 0);   // 2.2 > 2.1, and not 0.55
  EXPECT_EQ(SampleOnce(sampler, {-1, -1.9f, -5, -5}, history), 1);  // below 0: multiplied, -2 < -1.9
  EXPECT_EQ(SampleOnce(sampler, {4.0f, 2.1f, 1, 1}), 0);            // nothing is remembered
  Sampler reward({.repetition_penalty = 0.5f}, 4);
  EXPECT_EQ(SampleOnce(reward, {2, 3, 1, 1}, history), 0);
}

// A model may compute anything. Whatever it is, the sampler answers with a token of the vocabulary, and with
// one that the filters and the logits allow where there is one.
TEST(SamplerTest, AnyLogitsGiveAToken) {
  constexpr float kNan = NAN;
  constexpr float kInf = INFINITY;
  const std::vector<SamplingParams> all_params = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 1e-30f},
      {.temperature = 1, .top_k = 2},
      {.temperature = 1, .top_p = 0.5f},
      {.temperature = 1, .min_p = 0.2f},
      {.temperature = 1, .top_k = 3, .top_p = 0.9f, .min_p = 1, .repetition_penalty = 1.5f},
  };
  for (const SamplingParams& params : all_params) {
    const auto drawn = [&](const std::vector<float>& logits) {
      Sampler sampler(params, static_cast<int64_t>(logits.size()));
      std::set<int32_t> tokens;
      for (int i = 0; i < 50; ++i) tokens.insert(SampleOnce(sampler, logits, std::vector<int32_t>{0, 0}));
      EXPECT_GE(*tokens.begin(), 0);
      EXPECT_LT(*tokens.rbegin(), static_cast<int64_t>(logits.size()));
      return tokens;
    };
    drawn({kNan, kNan, kNan, kNan});
    drawn({-kInf, -kInf, -kInf, -kInf});
    EXPECT_EQ(drawn({-kInf, -kInf, 1, -kInf}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({kNan, kNan, 1, -kInf}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({0, 1, kInf, 3}), (std::set<int32_t>{2}));
    EXPECT_EQ(drawn({0}), (std::set<int32_t>{0}));
    EXPECT_EQ(drawn({-3e38f, 3e38f, -3e38f, -3e38f}), (std::set<int32_t>{1}));

    // Many, so that sorting with an order that is none would leave the array.
    std::vector<float> mixed(5000);
    Rng rng(3);
    for (float& logit : mixed) logit = rng.NextUnit() < 0.5 ? kNan : static_cast<float>(rng.NextUnit());
    for (int32_t token : drawn(mixed)) EXPECT_FALSE(std::isnan(mixed[static_cast<size_t>(token)]));
  }
}

TEST(SamplerTest, ParametersOutOfRangeAreNamed) {
  const auto expect = [](const SamplingParams& params, std::string_view start) {
    const std::string error = ErrorOf([&] { Validate(params); });
    EXPECT_TRUE(error.starts_with(start)) << error;
  };
  expect({.temperature = -0.1f}, "temperature: expected 0 to 100, got -0.1");
  expect({.temperature = NAN}, "temperature: expected 0 to 100, got ");
  expect({.temperature = INFINITY}, "temperature: expected 0 to 100, got inf");
  expect({.top_k = -1}, "top_k: expected 0 or more, got -1");
  expect({.top_p = 0}, "top_p: expected above 0, at most 1, got 0");
  expect({.top_p = 1.01f}, "top_p: ");
  expect({.top_p = NAN}, "top_p: ");
  expect({.min_p = -0.01f}, "min_p: expected 0 to 1, got -0.01");
  expect({.min_p = 1.5f}, "min_p: ");
  expect({.repetition_penalty = 0}, "repetition_penalty: expected above 0, at most 100, got 0");
  expect({.repetition_penalty = NAN}, "repetition_penalty: ");
  EXPECT_NO_THROW(Validate({}));
  EXPECT_NO_THROW(
      Validate({.temperature = 100, .top_k = 1, .top_p = 1e-9f, .min_p = 1, .repetition_penalty = 100}));
}

}  // namespace
}  // namespace fiddler
