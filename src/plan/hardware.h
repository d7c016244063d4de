// A machine in a dozen numbers: what `plan` and `simulate` need to say how fast a model would run on hardware
// that is not at hand. Plain data. On the machine itself calibrate/ measures instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace fiddler {

// Rates are what programs reach, not what data sheets promise. "gbps" are 10^9 bytes a second, "gflops" 10^9
// operations a second, a multiply-add being two.
struct HardwareProfile {
  std::string name;
  double cpu_read_gbps = 0;  // all CPU threads together, the link idle
  double dram_gbps = 0;      // CPU and link together: their joint cap, at least cpu_read_gbps
  double cpu_gflops = 0;     // products of the weights' type, all threads together
  uint64_t ram_bytes = 0;
  double handoff_seconds = 0;  // fixed cost of a layer's work on the CPU: x there, y back, one barrier

  // Without a GPU, all of these are 0.
  uint64_t gpu_memory_bytes = 0;
  double gpu_memory_gbps = 0;
  double gpu_gflops = 0;
  double link_gbps = 0;       // host to device, pinned memory, the CPU idle
  double launch_seconds = 0;  // fixed cost of a layer's experts on the GPU: starting the kernels

  bool has_gpu() const { return gpu_memory_bytes > 0; }

  bool operator==(const HardwareProfile&) const = default;
};

// Machines built in, written down from public specifications (builtin_hardware.cc says which).
std::span<const HardwareProfile> BuiltinHardware();

// Throws Error listing the names there are.
const HardwareProfile& FindHardware(std::string_view name);

// JSON: an object of the members above; without a GPU its five are left out. Sizes may be strings ("24GiB").
// Throws Error naming source, field, expected and got: a field that is missing, unknown, of the wrong type,
// negative, 0 where that makes no sense, or dram_gbps below cpu_read_gbps.
HardwareProfile HardwareFromJson(const Json& json, std::string_view source);
Json ToJson(const HardwareProfile& hardware);

// The same as a file. Throws Error naming the file, also if it cannot be read or written.
HardwareProfile ReadHardware(const std::filesystem::path& path);
void WriteHardware(const HardwareProfile& hardware, const std::filesystem::path& path);

}  // namespace fiddler
