#include "cli/calibration_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/svg.h"
#include "base/units.h"

namespace fiddler {
namespace {

using Anchor = SvgWriter::Anchor;
using Point = SvgWriter::Point;

constexpr double kPanelWidth = 270;
constexpr double kPanelHeight = 280;
constexpr double kGap = 24;
constexpr double kLeft = 84;
constexpr double kTop = 84;
constexpr double kBottom = 96;

// Apart in lightness too; the roof is dashed and the device's samples are squares.
constexpr std::string_view kCpuColour = "#1f5fbf";
constexpr std::string_view kDeviceColour = "#c2570c";
constexpr std::string_view kRoofColour = "#777777";
constexpr std::string_view kGridColour = "#e4e4e4";

// Maps a number to a pixel, logarithmically.
struct LogScale {
  double low, high;   // of the numbers
  double begin, end;  // pixels

  double At(double value) const {
    return begin + (end - begin) * std::log(value / low) / std::log(high / low);
  }
};

struct Panel {
  const CalibratedSlice& slice;
  LogScale x;
  LogScale y;

  Point At(double tokens, double seconds) const { return {x.At(tokens), y.At(seconds)}; }
};

// Powers of 10 around everything that is drawn.
std::pair<double, double> SecondsRange(std::span<const CalibratedSlice> slices) {
  double low = 1;
  double high = 1e-9;
  for (const CalibratedSlice& slice : slices) {
    const auto include = [&](double seconds) {
      low = std::min(low, seconds);
      high = std::max(high, seconds);
    };
    for (const CostSample& sample : slice.cpu.slice) {
      include(sample.seconds);
      include(slice.RoofSeconds(sample.tokens));
    }
    if (!slice.device) continue;
    for (const CostSample& sample : slice.device->slice) include(sample.seconds);
    include(slice.device->link_slice_seconds);
  }
  return {std::pow(10, std::floor(std::log10(low))), std::pow(10, std::ceil(std::log10(high)))};
}

void DrawGrid(SvgWriter& svg, const Panel& panel, bool with_seconds) {
  for (double seconds = panel.y.low; seconds < panel.y.high * 1.5; seconds *= 10) {
    const double y = panel.y.At(seconds);
    svg.Line({panel.x.begin, y}, {panel.x.end, y}, kGridColour);
    if (!with_seconds) continue;
    const double us = 1e6 * seconds;
    svg.Text({panel.x.begin - 8, y + 4},
             us < 1000 ? fmt::format("{:g} us", us) : fmt::format("{:g} ms", us / 1e3), Anchor::kEnd);
  }
  for (const CostSample& sample : panel.slice.cpu.slice) {
    const double x = panel.x.At(sample.tokens);
    svg.Line({x, panel.y.begin}, {x, panel.y.end}, kGridColour);
    svg.Text({x, panel.y.begin + 16}, fmt::format("{:.0f}", sample.tokens), Anchor::kMiddle, 10);
  }
}

// Straight on linear axes, so bent here: drawn through points close to each other.
template <typename Seconds>
void DrawCurve(SvgWriter& svg, const Panel& panel, std::string_view colour, std::string_view dash,
               const Seconds& seconds) {
  std::vector<Point> points;
  constexpr int kSteps = 90;
  for (int i = 0; i <= kSteps; ++i) {
    const double tokens = panel.x.low * std::pow(panel.x.high / panel.x.low, static_cast<double>(i) / kSteps);
    points.push_back(panel.At(tokens, seconds(tokens)));
  }
  svg.Polyline(points, colour, dash);
}

void DrawPanel(SvgWriter& svg, const Panel& panel, bool with_seconds) {
  const CalibratedSlice& slice = panel.slice;
  DrawGrid(svg, panel, with_seconds);
  svg.Text({(panel.x.begin + panel.x.end) / 2, kTop - 10},
           fmt::format("{}: {} neurons x {}, {}", FormatName(slice.expert.format), slice.expert.slice_neurons,
                       slice.expert.hidden, FormatBytes(static_cast<uint64_t>(slice.expert.slice_bytes()))),
           Anchor::kMiddle);
  DrawCurve(svg, panel, kRoofColour, "4 4", [&](double tokens) { return slice.RoofSeconds(tokens); });
  DrawCurve(svg, panel, kCpuColour, "", [&](double tokens) { return slice.cost.cpu.Seconds(tokens); });
  for (const CostSample& sample : slice.cpu.slice) {
    svg.Circle(panel.At(sample.tokens, sample.seconds), 3.5, kCpuColour);
  }
  svg.Text({(panel.x.begin + panel.x.end) / 2, panel.y.begin + 36},
           fmt::format("tokens; limits {:.1f} GB/s, {:.0f} GOP/s", slice.cpu.read_gbps, slice.cpu.peak_gops),
           Anchor::kMiddle, 11, "#555555");
  if (!slice.device) return;
  const double link = slice.device->link_slice_seconds;
  DrawCurve(svg, panel, kDeviceColour, "2 3", [&](double) { return link; });
  DrawCurve(svg, panel, kDeviceColour, "", [&](double tokens) { return slice.cost.gpu.Seconds(tokens); });
  for (const CostSample& sample : slice.device->slice) {
    const Point at = panel.At(sample.tokens, sample.seconds);
    svg.Rect({at.x - 3, at.y - 3}, 6, 6, kDeviceColour);
  }
}

void DrawLegend(SvgWriter& svg, double y, bool with_device) {
  double x = kLeft;
  const auto entry = [&](std::string_view colour, std::string_view dash, std::string_view text,
                         double width) {
    const Point ends[] = {{x, y - 4}, {x + 26, y - 4}};
    svg.Polyline(ends, colour, dash);
    svg.Text({x + 32, y}, text);
    x += width;
  };
  entry(kCpuColour, "", "CPU: measured and fitted", 215);
  entry(kRoofColour, "4 4", "limit of the machine", 165);
  if (!with_device) return;
  entry(kDeviceColour, "", "device", 95);
  entry(kDeviceColour, "2 3", "over the link", 120);
}

}  // namespace

std::string DrawCalibration(std::span<const CalibratedSlice> slices, std::string_view machine) {
  const auto count = static_cast<double>(slices.size());
  const double width = std::max(kLeft + count * kPanelWidth + (count - 1) * kGap + 30, 620.0);
  const double bottom = kTop + kPanelHeight;
  constexpr std::string_view kTitle = "What a slice of an expert costs, by its number of tokens";
  SvgWriter svg(width, bottom + kBottom, kTitle, machine);
  svg.Text({kLeft, 24}, kTitle, Anchor::kStart, 15);
  svg.Text({kLeft, 44}, machine);
  const auto [low, high] = SecondsRange(slices);
  for (size_t i = 0; i < slices.size(); ++i) {
    const std::vector<CostSample>& samples = slices[i].cpu.slice;
    const double left = kLeft + static_cast<double>(i) * (kPanelWidth + kGap);
    const Panel panel = {.slice = slices[i],
                         .x = {samples.front().tokens, samples.back().tokens, left, left + kPanelWidth},
                         .y = {low, high, bottom, kTop}};
    DrawPanel(svg, panel, /*with_seconds=*/i == 0);
  }
  const bool with_device =
      std::ranges::any_of(slices, [](const CalibratedSlice& s) { return s.device.has_value(); });
  DrawLegend(svg, bottom + 74, with_device);
  svg.UpwardText({16, kTop + kPanelHeight / 2}, "time of one slice");
  return svg.Finish();
}

}  // namespace fiddler
