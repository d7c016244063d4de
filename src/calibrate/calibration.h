// What was measured of machines, and the file it is kept in: cost models, each for one machine and one
// geometry of slices.
//
// The file is sealed JSON (base/sealed_json.h), kind "fiddler calibration", version 2:
//   {"entries": [{"hardware": {"cpu": "AMD EPYC", "threads": 2, "isa": "avx512_bf16", "kernels": 1,
//                              "ram_gib": 24, "device": "", "device_memory_gib": 0},
//                 "geometry": {"hidden": 4096, "slice_neurons": 128, "format": "bf16",
//                              "activations": "bf16"},
//                 "read_gbps": 40.1,
//                 "peak_gops": 812.0,
//                 "cost": {..}},  plan/cost_model.h
//                ..]}
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/topology.h"
#include "calibrate/measurements.h"
#include "plan/cost_model.h"

namespace fiddler {

// What tells machines apart.
struct HardwareKey {
  std::string cpu;
  int64_t threads = 0;
  std::string isa;                // of the kernels
  int64_t kernels = 0;            // their kKernelVersion
  int64_t ram_gib = 0;            // installed, rounded: kernels differ in what they keep for themselves
  std::string device;             // as it names itself; empty: the CPU alone
  int64_t device_memory_gib = 0;  // installed, whatever part of it is used; 0 if there is no such number

  bool operator==(const HardwareKey&) const = default;
};

// This machine without a device.
HardwareKey DescribeHardware(const Topology& topology, int threads, std::string_view isa);

struct Calibration {
  HardwareKey hardware;
  SliceGeometry geometry;
  double read_gbps = 0;  // the limits it was measured beside
  double peak_gops = 0;
  CostModel cost;

  bool operator==(const Calibration&) const = default;
};

// The bytes of a file.
std::string SerializeCalibrations(std::span<const Calibration> calibrations);
// Throws Error naming source, field, expected and got, also for two entries of one machine and geometry.
std::vector<Calibration> ParseCalibrations(std::string_view text, std::string_view source);

// $XDG_CACHE_HOME/fiddler/calibration.json, or ~/.cache/fiddler/calibration.json. Throws Error if neither
// XDG_CACHE_HOME nor HOME is an absolute path.
std::filesystem::path DefaultCalibrationPath();

// Nothing if there is no such file or no such entry in it. Throws Error naming a damaged file.
std::optional<CostModel> FindCalibration(const HardwareKey& hardware, const SliceGeometry& geometry,
                                         const std::filesystem::path& path);

// Adds the entries to the file or replaces those of the same machine and geometry, all or nothing; makes the
// folder. Several processes may do so at once: no entry is lost. A damaged file is started over: returns what
// was wrong with it, empty if nothing was. Throws Error if the file cannot be written.
std::string StoreCalibrations(std::span<const Calibration> calibrations, const std::filesystem::path& path);

}  // namespace fiddler
