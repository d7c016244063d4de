#include "calibrate/calibration.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/cache_folder.h"
#include "base/error.h"
#include "base/field_reader.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/json.h"
#include "base/sealed_json.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

constexpr JsonKind kKind = {.name = "fiddler calibration", .version = 2};
constexpr size_t kMaxFileBytes = size_t{16} << 20;  // thousands of entries
constexpr int64_t kMaxCount = int64_t{1} << 31;

std::string_view RoundingName(Rounding rounding) {
  switch (rounding) {
    case Rounding::kNone:
      return "f32";
    case Rounding::kBF16:
      return "bf16";
    case Rounding::kInt8Group64:
    case Rounding::kInt8Group32:
      return "int8";
  }
  __builtin_unreachable();
}

bool IsSame(const Calibration& a, const Calibration& b) {
  return a.hardware == b.hardware && a.geometry == b.geometry;
}

Json HardwareToJson(const HardwareKey& hardware) {
  return {{"cpu", hardware.cpu},
          {"threads", hardware.threads},
          {"isa", hardware.isa},
          {"kernels", hardware.kernels},
          {"ram_gib", hardware.ram_gib},
          {"device", hardware.device},
          {"device_memory_gib", hardware.device_memory_gib}};
}

HardwareKey HardwareFromJson(const Json& json, const std::string& where) {
  FieldReader fields(json, where);
  HardwareKey hardware = {.cpu = fields.String("cpu"),
                          .threads = fields.Integer("threads", 1, kMaxCount),
                          .isa = fields.String("isa"),
                          .kernels = fields.Integer("kernels", 1, kMaxCount),
                          .ram_gib = fields.Integer("ram_gib", 0, kMaxCount),
                          .device = fields.String("device"),
                          .device_memory_gib = fields.Integer("device_memory_gib", 0, kMaxCount)};
  fields.RefuseUnread();
  return hardware;
}

Json GeometryToJson(const SliceGeometry& geometry) {
  return {{"hidden", geometry.hidden},
          {"slice_neurons", geometry.slice_neurons},
          {"format", FormatName(geometry.format)},
          {"activations", RoundingName(geometry.rounding)}};
}

SliceGeometry GeometryFromJson(const Json& json, const std::string& where) {
  FieldReader fields(json, where);
  SliceGeometry geometry = {.hidden = fields.Integer("hidden", 1, kMaxCount),
                            .slice_neurons = fields.Integer("slice_neurons", 1, kMaxCount)};
  const std::string format = fields.String("format");
  const auto found = std::ranges::find(kWeightFormats, format, FormatName);
  if (found == std::end(kWeightFormats)) {
    throw Error("{}: expected f32, f16, bf16, int8 or int4, got {}", fields.Where("format"),
                Printable(Json(format)));
  }
  geometry.format = *found;
  const std::string activations = fields.String("activations");
  const std::string_view fast = RoundingName(FastRounding(geometry.format));
  if (activations != fast && activations != RoundingName(Rounding::kNone)) {
    throw Error("{}: expected f32 or {}, got {}", fields.Where("activations"), fast,
                Printable(Json(activations)));
  }
  geometry.rounding = activations == fast ? FastRounding(geometry.format) : Rounding::kNone;
  fields.RefuseUnread();
  return geometry;
}

Calibration CalibrationFromJson(const Json& json, const std::string& where) {
  FieldReader fields(json, where);
  Calibration calibration = {
      .hardware = HardwareFromJson(fields.Value("hardware"), fields.Where("hardware")),
      .geometry = GeometryFromJson(fields.Value("geometry"), fields.Where("geometry")),
      .read_gbps = fields.Positive("read_gbps"),
      .peak_gops = fields.Positive("peak_gops"),
      .cost = CostModelFromJson(fields.Value("cost"), fields.Where("cost")),
  };
  fields.RefuseUnread();
  if (calibration.cost.has_gpu == calibration.hardware.device.empty()) {
    throw Error(
        "{}: expected {}, got {}", fields.Where("cost"),
        calibration.cost.has_gpu ? "no costs of a device, as hardware has none" : "the costs of the device",
        calibration.cost.has_gpu ? "some" : "none");
  }
  return calibration;
}

std::vector<Calibration> ReadCalibrations(const std::filesystem::path& path) {
  return ParseCalibrations(ReadFile(path, kMaxFileBytes), path.string());
}

}  // namespace

HardwareKey DescribeHardware(const Topology& topology, int threads, std::string_view isa) {
  const double bytes =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  return {.cpu = topology.cpu_model,
          .threads = threads,
          .isa = std::string(isa),
          .kernels = kKernelVersion,
          .ram_gib = std::llround(bytes / double{1 << 30}),
          .device = "",
          .device_memory_gib = 0};
}

std::string SerializeCalibrations(std::span<const Calibration> calibrations) {
  Json entries = Json::array();
  for (const Calibration& calibration : calibrations) {
    entries.push_back({{"hardware", HardwareToJson(calibration.hardware)},
                       {"geometry", GeometryToJson(calibration.geometry)},
                       {"read_gbps", calibration.read_gbps},
                       {"peak_gops", calibration.peak_gops},
                       {"cost", ToJson(calibration.cost)}});
  }
  return SealJson(kKind, {{"entries", std::move(entries)}});
}

std::vector<Calibration> ParseCalibrations(std::string_view text, std::string_view source) {
  const Json json = UnsealJson(kKind, text, source);
  FieldReader fields(json, source);
  const Json& entries = fields.Value("entries");
  fields.RefuseUnread();
  const std::string where = fields.Where("entries");
  if (!entries.is_array()) throw Error("{}: expected an array, got {}", where, Printable(entries));
  std::vector<Calibration> calibrations;
  for (const Json& entry : entries) {
    const std::string name = fmt::format("{}[{}]", where, calibrations.size());
    Calibration calibration = CalibrationFromJson(entry, name);
    if (std::ranges::any_of(calibrations,
                            [&](const Calibration& other) { return IsSame(other, calibration); })) {
      throw Error("{}: expected every machine and geometry once, got this one twice", name);
    }
    calibrations.push_back(std::move(calibration));
  }
  return calibrations;
}

std::filesystem::path DefaultCalibrationPath() { return CacheFolder("--output") / "calibration.json"; }

std::optional<CostModel> FindCalibration(const HardwareKey& hardware, const SliceGeometry& geometry,
                                         const std::filesystem::path& path) {
  std::error_code status;
  if (!std::filesystem::exists(path, status)) return std::nullopt;
  for (Calibration& calibration : ReadCalibrations(path)) {
    if (calibration.hardware == hardware && calibration.geometry == geometry)
      return std::move(calibration.cost);
  }
  return std::nullopt;
}

std::string StoreCalibrations(std::span<const Calibration> calibrations, const std::filesystem::path& path) {
  std::error_code status;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), status);
  if (status) throw Error("{}: expected a folder, got: {}", path.parent_path().string(), status.message());
  const FileLock lock(path);
  std::vector<Calibration> all;
  std::string damage;
  if (std::filesystem::exists(path, status)) {
    // Here a broken file is an expected outcome: to measure again is how it is mended.
    try {
      all = ReadCalibrations(path);
    } catch (const Error& error) {
      damage = error.what();
    }
  }
  std::erase_if(all, [&](const Calibration& old) {
    return std::ranges::any_of(calibrations, [&](const Calibration& fresh) { return IsSame(old, fresh); });
  });
  all.insert(all.end(), calibrations.begin(), calibrations.end());
  WriteFileAtomically(path, SerializeCalibrations(all));
  return damage;
}

}  // namespace fiddler
