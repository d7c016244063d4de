#include "cli/popularity_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/svg.h"

namespace fiddler {
namespace {

using Anchor = SvgWriter::Anchor;

constexpr double kLeft = 60;
constexpr double kTop = 64;
constexpr double kScaleWidth = 16;

struct Rgb {
  double red, green, blue;
};

// From dark blue over grey to yellow, ever lighter: told apart with any kind of colour blindness, and in
// grey.
constexpr std::array<Rgb, 5> kColours = {
    {{0, 32, 81}, {60, 77, 110}, {127, 124, 117}, {187, 175, 113}, {253, 234, 69}}};

std::string ColourAt(double share) {  // of the scale, 0 to 1
  const double place = std::clamp(share, 0.0, 1.0) * (kColours.size() - 1);
  const size_t below = std::min(static_cast<size_t>(place), kColours.size() - 2);
  const double part = place - static_cast<double>(below);
  const Rgb& a = kColours[below];
  const Rgb& b = kColours[below + 1];
  const auto mix = [part](double from, double to) {
    return static_cast<int>(std::lround(from + part * (to - from)));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue));
}

// Every how many cells one is labelled, so that labels of `pixels` do not touch: 1, 2, 4, 8 ...
int64_t LabelStep(double cell, double pixels) {
  int64_t step = 1;
  while (static_cast<double>(step) * cell < pixels) step *= 2;
  return step;
}

// Times as often as if all were used alike, at the two ends of the colours.
struct Scale {
  double low, high;
};

void DrawScale(SvgWriter& svg, double x, double height, const Scale& scale) {
  constexpr int kSteps = 64;
  for (int i = 0; i < kSteps; ++i) {
    const double share = (i + 0.5) / kSteps;
    // A little higher than its part, so that no line of the page shows between two.
    svg.Rect({x, kTop + height * (1 - (i + 1.0) / kSteps)}, kScaleWidth, height / kSteps + (i > 0 ? 0.5 : 0),
             ColourAt(share));
  }
  constexpr int kLabels = 4;
  for (int i = 0; i <= kLabels; ++i) {
    const double share = static_cast<double>(i) / kLabels;
    svg.Text({x + kScaleWidth + 6, kTop + height * (1 - share) + 4},
             fmt::format("{:.2f}x", scale.low + share * (scale.high - scale.low)));
  }
}

}  // namespace

std::string DrawPopularity(const ExpertPopularity& popularity) {
  const double cell_width = std::clamp(640.0 / static_cast<double>(popularity.experts), 4.0, 48.0);
  const double cell_height = std::clamp(400.0 / static_cast<double>(popularity.layers), 8.0, 28.0);
  // A map of few cells still has room for its title and its scale.
  const double width = cell_width * static_cast<double>(popularity.experts);
  const double height = cell_height * static_cast<double>(popularity.layers);
  const double page_width = std::max(kLeft + width + 100, 560.0);
  const double page_height = kTop + std::max(height, 80.0) + 56;

  const std::string title = fmt::format("Expert popularity: {}, top {} of {}", popularity.family,
                                        popularity.top_k, popularity.experts);
  const std::string subtitle = fmt::format("{} tokens of {}; 1.00x: as if all experts were used alike",
                                           popularity.tokens, popularity.text);
  SvgWriter svg(page_width, page_height, title, subtitle);
  svg.Text({kLeft, 22}, title, Anchor::kStart, 15);
  svg.Text({kLeft, 42}, subtitle);

  const double alike =
      static_cast<double>(popularity.tokens * popularity.top_k) / static_cast<double>(popularity.experts);
  const auto [least, most] = std::ranges::minmax(popularity.counts);
  // From the least to the most popular: differences show where all are nearly alike too.
  const Scale scale = {static_cast<double>(least) / alike,
                       static_cast<double>(std::max(most, least + 1)) / alike};
  for (int64_t layer = 0; layer < popularity.layers; ++layer) {
    const double y = kTop + cell_height * static_cast<double>(layer);
    for (int64_t expert = 0; expert < popularity.experts; ++expert) {
      const double times = static_cast<double>(popularity.Count(layer, expert)) / alike;
      svg.Rect({kLeft + cell_width * static_cast<double>(expert), y}, cell_width, cell_height,
               ColourAt((times - scale.low) / (scale.high - scale.low)));
    }
    if (layer % LabelStep(cell_height, 14) == 0) {
      svg.Text({kLeft - 6, y + cell_height / 2 + 4}, std::to_string(layer), Anchor::kEnd);
    }
  }
  for (int64_t expert = 0; expert < popularity.experts; expert += LabelStep(cell_width, 24)) {
    svg.Text({kLeft + cell_width * (static_cast<double>(expert) + 0.5), kTop + height + 16},
             std::to_string(expert), Anchor::kMiddle);
  }
  svg.Text({kLeft + width / 2, kTop + height + 38}, "expert", Anchor::kMiddle);
  svg.UpwardText({18, kTop + height / 2}, "MoE layer");
  DrawScale(svg, kLeft + width + 20, std::max(height, 80.0), scale);
  return svg.Finish();
}

}  // namespace fiddler
