#include "plan/cost_table.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/json.h"

namespace fiddler {
namespace {

void RequireCost(double value, std::string_view what, size_t knot, std::string_view field) {
  if (std::isfinite(value) && value >= 0) return;
  throw Error("{}[{}].{}: expected a finite number of at least 0, got {}", what, knot, field, value);
}

}  // namespace

CostTable::CostTable(std::vector<Knot> knots, std::string_view what) : knots_(std::move(knots)) {
  if (knots_.empty()) throw Error("{}: expected at least one knot, got none", what);
  for (size_t i = 0; i < knots_.size(); ++i) {
    RequireCost(knots_[i].tokens, what, i, "tokens");
    RequireCost(knots_[i].seconds, what, i, "seconds");
    if (i > 0 && knots_[i].tokens <= knots_[i - 1].tokens) {
      throw Error("{}[{}].tokens: expected more than {}, as knots ascend, got {}", what, i,
                  knots_[i - 1].tokens, knots_[i].tokens);
    }
  }
}

CostTable CostTable::FromJson(const Json& json, std::string_view what) {
  if (!json.is_array()) {
    throw Error("{}: expected an array of [tokens, seconds], got {}", what, Printable(json));
  }
  std::vector<Knot> knots;
  knots.reserve(json.size());
  for (const Json& knot : json) {
    if (!knot.is_array() || knot.size() != 2 || !knot[0].is_number() || !knot[1].is_number()) {
      throw Error("{}[{}]: expected [tokens, seconds], got {}", what, knots.size(), Printable(knot));
    }
    knots.push_back({.tokens = knot[0].get<double>(), .seconds = knot[1].get<double>()});
  }
  return {std::move(knots), what};
}

Json CostTable::ToJson() const {
  Json json = Json::array();
  for (const Knot& knot : knots_) json.push_back(Json::array({knot.tokens, knot.seconds}));
  return json;
}

double CostTable::Seconds(double tokens) const {
  if (tokens <= knots_.front().tokens || knots_.size() == 1) return knots_.front().seconds;
  // The segment that holds `tokens`, or the last one.
  const auto right = std::upper_bound(knots_.begin() + 1, knots_.end() - 1, tokens,
                                      [](double value, const Knot& knot) { return value < knot.tokens; });
  const Knot& a = *(right - 1);
  const Knot& b = *right;
  if (tokens >= b.tokens && b.seconds <= a.seconds) return b.seconds;
  return a.seconds + (tokens - a.tokens) * ((b.seconds - a.seconds) / (b.tokens - a.tokens));
}

}  // namespace fiddler
