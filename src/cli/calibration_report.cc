#include "cli/calibration_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace fiddler {
namespace {

OrderedJson SamplesJson(const std::vector<CostSample>& samples, const CostTable& table) {
  OrderedJson json = OrderedJson::array();
  for (const CostSample& sample : samples) {
    json.push_back({{"tokens", sample.tokens},
                    {"us", 1e6 * sample.seconds},
                    {"fitted_us", 1e6 * table.Seconds(sample.tokens)}});
  }
  return json;
}

double Gbps(double bytes, double seconds) { return bytes / seconds / 1e9; }

OrderedJson DescribeDevice(const DeviceCosts& device, const CostModel& cost, double slice_bytes) {
  OrderedJson link = OrderedJson::array();
  for (const LinkSample& sample : device.link) {
    link.push_back({{"bytes", sample.bytes},
                    {"in_gbps", Gbps(sample.bytes, sample.in_seconds)},
                    {"out_gbps", Gbps(sample.bytes, sample.out_seconds)}});
  }
  return {{"slice", SamplesJson(device.slice, cost.gpu)},
          {"start_us", 1e6 * device.start_seconds},
          {"link", link},
          {"link_slice_gbps", Gbps(slice_bytes, device.link_slice_seconds)},
          {"joint_gbps", device.joint_gbps},
          {"handoff_p50_us", 1e6 * device.handoff_p50_seconds},
          {"handoff_p99_us", 1e6 * device.handoff_p99_seconds}};
}

std::string DeviceTable(const DeviceCosts& device, const CostModel& cost, double slice_bytes) {
  std::string text = fmt::format(
      "  device: starts in {:.1f} us; hand-over and back {:.1f} us, p99 {:.1f} us\n",
      1e6 * device.start_seconds, 1e6 * device.handoff_p50_seconds, 1e6 * device.handoff_p99_seconds);
  text += fmt::format("  link: slices {:.1f} GB/s; with CPU experts at once, together {:.1f} GB/s\n",
                      Gbps(slice_bytes, device.link_slice_seconds), device.joint_gbps);
  for (const LinkSample& sample : device.link) {
    text += fmt::format("  {:>20} copies: {:>6.1f} GB/s in {:>6.1f} GB/s out\n",
                        FormatBytes(static_cast<uint64_t>(sample.bytes)),
                        Gbps(sample.bytes, sample.in_seconds), Gbps(sample.bytes, sample.out_seconds));
  }
  text += "  tokens on the device    us/slice      fitted\n";
  for (const CostSample& sample : device.slice) {
    text += fmt::format("  {:>20.0f} {:>11.1f} {:>11.1f}\n", sample.tokens, 1e6 * sample.seconds,
                        1e6 * cost.gpu.Seconds(sample.tokens));
  }
  return text;
}

}  // namespace

double CalibratedSlice::RoofSeconds(double tokens) const {
  const double read = static_cast<double>(expert.slice_bytes()) / (cpu.read_gbps * 1e9);
  const double operations = 6.0 * static_cast<double>(expert.hidden * expert.slice_neurons) * tokens;
  return std::max(read, operations / (cpu.peak_gops * 1e9));
}

OrderedJson DescribeSlice(const CalibratedSlice& slice) {
  OrderedJson cpu = SamplesJson(slice.cpu.slice, slice.cost.cpu);
  for (OrderedJson& sample : cpu) {
    sample["percent_of_limit"] =
        1e8 * slice.RoofSeconds(sample["tokens"].get<double>()) / sample["us"].get<double>();
  }
  OrderedJson json = {{"format", FormatName(slice.expert.format)},
                      {"hidden", slice.expert.hidden},
                      {"slice_neurons", slice.expert.slice_neurons},
                      {"slice_bytes", slice.expert.slice_bytes()},
                      {"read_gbps", slice.cpu.read_gbps},
                      {"peak_gops", slice.cpu.peak_gops},
                      {"spread", slice.cpu.spread},
                      {"cpu_start_us", 1e6 * slice.cpu.start_seconds},
                      {"cpu", cpu},
                      {"cost", OrderedJson(ToJson(slice.cost))}};
  if (slice.device) {
    json["device"] =
        DescribeDevice(*slice.device, slice.cost, static_cast<double>(slice.expert.slice_bytes()));
  }
  return json;
}

std::string SliceTable(const CalibratedSlice& slice) {
  std::string text = fmt::format(
      "{}: slices of {} neurons x {}, {}; limits {:.1f} GB/s read, {:.0f} GOP/s; a layer starts in {:.1f} "
      "us\n",
      FormatName(slice.expert.format), slice.expert.slice_neurons, slice.expert.hidden,
      FormatBytes(static_cast<uint64_t>(slice.expert.slice_bytes())), slice.cpu.read_gbps,
      slice.cpu.peak_gops, 1e6 * slice.cpu.start_seconds);
  text += "  tokens on the CPU       us/slice      fitted      GB/s     GOP/s   of limit\n";
  for (const CostSample& sample : slice.cpu.slice) {
    const double roof = slice.RoofSeconds(sample.tokens);
    const double operations =
        6.0 * static_cast<double>(slice.expert.hidden * slice.expert.slice_neurons) * sample.tokens;
    text += fmt::format("  {:>20.0f} {:>11.1f} {:>11.1f} {:>9.1f} {:>9.0f} {:>9.1f}%\n", sample.tokens,
                        1e6 * sample.seconds, 1e6 * slice.cost.cpu.Seconds(sample.tokens),
                        Gbps(static_cast<double>(slice.expert.slice_bytes()), sample.seconds),
                        operations / sample.seconds / 1e9, 100 * roof / sample.seconds);
  }
  if (slice.device) {
    text += DeviceTable(*slice.device, slice.cost, static_cast<double>(slice.expert.slice_bytes()));
  }
  return text;
}

}  // namespace fiddler
