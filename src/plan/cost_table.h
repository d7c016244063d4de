// Seconds as a piecewise linear function of tokens: what one slice costs one side of the machine. Plain data,
// immutable once made, so any thread may read it.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace fiddler {

class CostTable {
 public:
  struct Knot {
    double tokens = 1;
    double seconds = 0;

    bool operator==(const Knot&) const = default;
  };

  CostTable() : CostTable({{}}, "cost table") {}  // costs nothing

  // Throws Error naming `what`, the knot and its field if there is no knot, if tokens do not ascend, or if a
  // number is negative or not finite.
  CostTable(std::vector<Knot> knots, std::string_view what);

  // An array of [tokens, seconds]; `what` (file and field) opens every error.
  static CostTable FromJson(const Json& json, std::string_view what);
  Json ToJson() const;

  // Linear between the knots. Below the first: what it says, as the weights must be read even for one token.
  // Beyond the last: along the last segment, or level if that one falls, for more tokens are never less work.
  double Seconds(double tokens) const;  // O(log knots)

  std::span<const Knot> knots() const { return knots_; }

  bool operator==(const CostTable&) const = default;

 private:
  std::vector<Knot> knots_;  // at least one, tokens strictly ascending
};

}  // namespace fiddler
