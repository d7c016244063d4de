// What benchmarks share: the wall time of a piece of work, and the median of several.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace fiddler {

double SecondsOf(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double Median(std::vector<double> values) {  // not empty
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace fiddler
