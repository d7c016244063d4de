// For tests only: what Hugging Face transformers computed for the tiny models of tests/oracle/golden.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/source_testing.h"
#include "io/safetensors.h"

namespace fiddler {

// Logits of a few units, float32 on both sides, sums in another order. The contract's bound (DESIGN.md
// section 7).
inline constexpr float kLogitTolerance = 1e-4f;

inline const std::filesystem::path kGoldenDir = SourceDir() / "tests/oracle/golden";

template <typename T>
std::vector<T> ReadTensor(const SafetensorsFile& file, std::string_view name) {
  const TensorView* tensor = file.Find(name);
  if (tensor == nullptr || tensor->bytes.size() % sizeof(T) != 0) throw Error("golden without {}", name);
  std::vector<T> values(tensor->bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

struct Golden {
  std::vector<int32_t> input_ids;
  std::vector<float> logits;  // [tokens, vocab]
  std::vector<int32_t> router_ids;
  std::vector<float> router_weights;
  std::vector<int32_t> greedy_ids;

  explicit Golden(const std::filesystem::path& dir) {
    const SafetensorsFile file = SafetensorsFile::Open(dir / "golden.safetensors");
    const auto narrow = [&](std::string_view name) {
      const std::vector<int64_t> wide = ReadTensor<int64_t>(file, name);
      return std::vector<int32_t>(wide.begin(), wide.end());
    };
    input_ids = narrow("input_ids");
    greedy_ids = narrow("greedy_ids");
    logits = ReadTensor<float>(file, "logits");
    router_ids = ReadTensor<int32_t>(file, "router_ids");
    router_weights = ReadTensor<float>(file, "router_weights");
  }
};

// Infinite where either side is not finite or the sizes differ.
inline float MaxDifference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    if (!std::isfinite(difference)) return INFINITY;
    largest = std::max(largest, difference);
  }
  return largest;
}

// RoPE that stretches with every call ("dynamic"): its result depends on how a prompt is cut.
inline constexpr const char* kRefused = "mixtral-dynamic";

inline std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(kGoldenDir)) {
    if (entry.path().filename() != kRefused) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fiddler
