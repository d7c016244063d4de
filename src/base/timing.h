// What is measured with: the wall time of a piece of work, and quantiles of several.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

namespace fiddler {

double SecondsOf(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The value that `share` of the values are below; 0.5: the median. `values` is not empty.
inline double Quantile(std::vector<double> values, double share) {
  const auto place =
      std::min(static_cast<size_t>(static_cast<double>(values.size()) * share), values.size() - 1);
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(place);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

inline double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

}  // namespace fiddler
