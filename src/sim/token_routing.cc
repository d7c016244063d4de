#include "sim/token_routing.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

class MadeUp final : public TokenRouting {
 public:
  MadeUp(const RoutingStatistics& statistics, int64_t num_layers, int64_t num_sequences, uint64_t seed)
      : statistics_(statistics), num_layers_(num_layers), seed_(seed) {
    for (int64_t i = 0; i < num_sequences; ++i)
      texts_.emplace_back(statistics, num_layers, seed, seed + static_cast<uint64_t>(i));
  }

  RoutingGeometry geometry() const override {
    return {.num_layers = num_layers_, .num_experts = statistics_.num_experts, .top_k = statistics_.top_k};
  }

  void NextToken(int64_t sequence, std::span<uint16_t> experts) override {
    texts_[static_cast<size_t>(sequence)].NextToken(experts);
  }

  // Many short texts: what differs between texts averages out sooner than within one.
  std::vector<int64_t> Popularity() const override {
    constexpr uint64_t kTexts = 32;
    constexpr int kTokens = 8;
    constexpr uint64_t kOtherTexts = 0x9e3779b97f4a7c15;  // far from the seeds of those that are run
    std::vector<int64_t> popularity(static_cast<size_t>(num_layers_ * statistics_.num_experts));
    std::vector<uint16_t> experts(static_cast<size_t>(num_layers_ * statistics_.top_k));
    for (uint64_t text = 0; text < kTexts; ++text) {
      RoutingGenerator generator(statistics_, num_layers_, seed_, seed_ + kOtherTexts + text);
      for (int token = 0; token < kTokens; ++token) {
        generator.NextToken(experts);
        for (size_t i = 0; i < experts.size(); ++i) {
          const size_t layer = i / static_cast<size_t>(statistics_.top_k);
          ++popularity[layer * static_cast<size_t>(statistics_.num_experts) + experts[i]];
        }
      }
    }
    return popularity;
  }

 private:
  RoutingStatistics statistics_;
  int64_t num_layers_;
  uint64_t seed_;
  std::vector<RoutingGenerator> texts_;
};

class Replayed final : public TokenRouting {
 public:
  explicit Replayed(const RoutingTrace& trace) : trace_(trace) {}

  RoutingGeometry geometry() const override { return trace_.geometry(); }
  std::vector<int64_t> Popularity() const override { return {}; }

  void NextToken(int64_t, std::span<uint16_t> experts) override {
    if (step_ == trace_.num_steps()) {
      throw Error(
          "trace: expected more tokens than its {}: the scenario has --prompt + --gen of each sequence",
          trace_.num_tokens());
    }
    const auto top_k = static_cast<size_t>(trace_.geometry().top_k);
    for (int64_t layer = 0; layer < trace_.geometry().num_layers; ++layer) {
      const std::span<const uint16_t> step = trace_.Experts(step_, layer);
      std::copy_n(step.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(token_) * top_k), top_k,
                  experts.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(layer) * top_k));
    }
    if (++token_ < trace_.tokens(step_)) return;
    token_ = 0;
    ++step_;
  }

 private:
  const RoutingTrace& trace_;
  int64_t step_ = 0;
  int64_t token_ = 0;  // of the step
};

}  // namespace

std::unique_ptr<TokenRouting> MakeUpRouting(const RoutingStatistics& statistics, int64_t num_layers,
                                            int64_t num_sequences, uint64_t seed) {
  CHECK(num_sequences >= 1, "{} sequences", num_sequences);
  return std::make_unique<MadeUp>(statistics, num_layers, num_sequences, seed);
}

std::unique_ptr<TokenRouting> ReplayRouting(const RoutingTrace& trace) {
  return std::make_unique<Replayed>(trace);
}

}  // namespace fiddler
