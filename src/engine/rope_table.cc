#include "engine/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fiddler {
namespace {

// Llama 3: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double Llama3Frequency(const RopeSpec& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < rope.original_context / rope.high_frequency) return frequency;
  if (wavelength > rope.original_context / rope.low_frequency) return frequency / rope.factor;
  const double keep =
      (rope.original_context / wavelength - rope.low_frequency) / (rope.high_frequency - rope.low_frequency);
  return (1 - keep) * frequency / rope.factor + keep * frequency;
}

// YaRN (arXiv 2309.00071, section 3.2): dimensions that turn more than beta_fast times within the original
// context keep their frequency, those below beta_slow turns are stretched, a linear ramp lies between.
struct YarnRamp {
  double low;
  double high;

  explicit YarnRamp(const RopeSpec& rope) {
    const auto dimension_turning = [&](double turns) {
      const auto dim = static_cast<double>(rope.rotary_dim);
      return dim * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(rope.theta));
    };
    low = dimension_turning(rope.beta_fast);
    high = dimension_turning(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
    if (low == high) high += 0.001;
  }

  double StretchedShare(int64_t i) const {
    return std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
  }
};

}  // namespace

std::vector<float> RopeFrequencies(const RopeSpec& rope) {
  const int64_t half = rope.rotary_dim / 2;
  std::vector<float> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    // Rounded to float32 where transformers rounds: at position 100,000 the last bit matters.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary_dim);
    const float plain = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
    double frequency = plain;
    switch (rope.scaling) {
      case RopeSpec::Scaling::kNone:
        break;
      case RopeSpec::Scaling::kLinear:
        frequency = plain / rope.factor;
        break;
      case RopeSpec::Scaling::kLlama3:
        frequency = Llama3Frequency(rope, plain);
        break;
      case RopeSpec::Scaling::kYarn: {
        const double stretched = YarnRamp(rope).StretchedShare(i);
        frequency = plain / rope.factor * stretched + plain * (1 - stretched);
        break;
      }
    }
    frequencies[static_cast<size_t>(i)] = static_cast<float>(frequency);
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeSpec& rope, int64_t num_positions) : half_(rope.rotary_dim / 2) {
  const std::vector<float> frequencies = RopeFrequencies(rope);
  cos_.reserve(static_cast<size_t>(num_positions * half_));
  sin_.reserve(static_cast<size_t>(num_positions * half_));
  for (int64_t position = 0; position < num_positions; ++position) {
    for (float frequency : frequencies) {
      const auto angle = static_cast<double>(static_cast<float>(position) * frequency);
      cos_.push_back(static_cast<float>(std::cos(angle) * rope.attention_factor));
      sin_.push_back(static_cast<float>(std::sin(angle) * rope.attention_factor));
    }
  }
}

}  // namespace fiddler
