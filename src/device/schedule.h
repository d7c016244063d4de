// Whose turn it is on the emulated device when several streams could go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/rng.h"
#include "device/plugin.h"

namespace fiddler::emulated {

enum class StepKind : uint8_t { kSignal, kBeginCopy, kEndCopy, kCompute };  // kSignal: events and flags

// The next step of a stream that can take it.
struct Candidate {
  FiddlerStream stream = 0;
  StepKind kind = StepKind::kSignal;
  uint64_t call = 0;  // numbered in the order of the calls
};

// A plain value. The same seed makes the same choices.
class Schedule {
 public:
  // What an adversary prefers; among equals it draws. All but kRandom give signals at once, which opens more
  // choices and closes none.
  enum class Strategy : uint8_t {
    kInOrder,  // the oldest call: no adversary
    kCopiesFirst,
    kCopiesLast,
    kRandom,
    kLongCopies,  // copies begin before all else and end after it
    kNewestFirst,
    kOnlyNeeded,  // nothing but what the host waits for depends on; copies last
  };
  static constexpr uint64_t kStrategies = 6;  // of the adversary

  // Without a seed kInOrder. With one, 2 * kStrategies seeds in a row have every strategy in both manners.
  explicit Schedule(std::optional<uint64_t> seed);

  Strategy strategy() const { return strategy_; }
  // Does the device go on, once the host has what it waits for, as far as it can?
  bool eager() const { return eager_; }

  size_t Choose(std::span<const Candidate> candidates);  // of one at least: its index

 private:
  int RankOf(StepKind kind) const;  // the lowest goes first

  Strategy strategy_ = Strategy::kInOrder;
  bool eager_ = false;
  Rng rng_;
};

}  // namespace fiddler::emulated
