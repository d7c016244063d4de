#include "device/schedule.h"

#include <limits>

namespace fiddler::emulated {

Schedule::Schedule(std::optional<uint64_t> seed) : rng_(seed.value_or(0)) {
  if (!seed) return;
  strategy_ = static_cast<Strategy>(1 + *seed % kStrategies);
  eager_ = *seed / kStrategies % 2 == 1;
}

size_t Schedule::Choose(std::span<const Candidate> candidates) {
  size_t best = 0;
  int best_rank = std::numeric_limits<int>::max();
  uint64_t equals = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (strategy_ == Strategy::kInOrder || strategy_ == Strategy::kNewestFirst) {
      const bool older = candidates[i].call < candidates[best].call;
      if (older == (strategy_ == Strategy::kInOrder)) best = i;
      continue;
    }
    const int rank = RankOf(candidates[i].kind);
    if (rank > best_rank) continue;
    equals = rank < best_rank ? 1 : equals + 1;
    best_rank = rank;
    if (rng_.NextBits() % equals == 0) best = i;  // each of the equals with the same chance
  }
  return best;
}

int Schedule::RankOf(StepKind kind) const {
  if (strategy_ == Strategy::kRandom || kind == StepKind::kSignal) return 0;
  const bool copy = kind != StepKind::kCompute;
  switch (strategy_) {
    case Strategy::kCopiesFirst:
      return copy ? 1 : 2;
    case Strategy::kLongCopies:
      return kind == StepKind::kBeginCopy ? 1 : kind == StepKind::kCompute ? 2 : 3;
    default:
      return copy ? 2 : 1;
  }
}

}  // namespace fiddler::emulated
