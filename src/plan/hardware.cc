#include "plan/hardware.h"

#include "base/error.h"
#include "base/field_reader.h"
#include "base/file.h"
#include "base/json.h"

namespace fiddler {

HardwareProfile HardwareFromJson(const Json& json, std::string_view source) {
  FieldReader fields(json, source);
  HardwareProfile hardware;
  hardware.name = fields.String("name");
  hardware.cpu_read_gbps = fields.Positive("cpu_read_gbps");
  hardware.dram_gbps = fields.Positive("dram_gbps");
  hardware.cpu_gflops = fields.Positive("cpu_gflops");
  hardware.ram_bytes = fields.Bytes("ram_bytes");
  hardware.handoff_seconds = fields.Number("handoff_seconds");
  if (hardware.dram_gbps < hardware.cpu_read_gbps) {
    throw Error("{}: expected at least cpu_read_gbps, {}, got {}", fields.Where("dram_gbps"),
                hardware.cpu_read_gbps, hardware.dram_gbps);
  }
  if (fields.Has("gpu_memory_bytes")) {
    hardware.gpu_memory_bytes = fields.Bytes("gpu_memory_bytes");
    if (hardware.gpu_memory_bytes == 0) {
      throw Error("{}: expected more than 0 (no GPU: leave its fields out), got 0",
                  fields.Where("gpu_memory_bytes"));
    }
    hardware.gpu_memory_gbps = fields.Positive("gpu_memory_gbps");
    hardware.gpu_gflops = fields.Positive("gpu_gflops");
    hardware.link_gbps = fields.Positive("link_gbps");
    hardware.launch_seconds = fields.Number("launch_seconds");
  }
  fields.RefuseUnread();
  return hardware;
}

Json ToJson(const HardwareProfile& hardware) {
  Json json = {
      {"name", hardware.name},           {"cpu_read_gbps", hardware.cpu_read_gbps},
      {"dram_gbps", hardware.dram_gbps}, {"cpu_gflops", hardware.cpu_gflops},
      {"ram_bytes", hardware.ram_bytes}, {"handoff_seconds", hardware.handoff_seconds},
  };
  if (hardware.has_gpu()) {
    json["gpu_memory_bytes"] = hardware.gpu_memory_bytes;
    json["gpu_memory_gbps"] = hardware.gpu_memory_gbps;
    json["gpu_gflops"] = hardware.gpu_gflops;
    json["link_gbps"] = hardware.link_gbps;
    json["launch_seconds"] = hardware.launch_seconds;
  }
  return json;
}

HardwareProfile ReadHardware(const std::filesystem::path& path) {
  constexpr size_t kMaxBytes = size_t{1} << 20;  // a dozen numbers
  return HardwareFromJson(ParseJson(ReadFile(path, kMaxBytes), path.string()), path.string());
}

void WriteHardware(const HardwareProfile& hardware, const std::filesystem::path& path) {
  WriteFileAtomically(path, ToJson(hardware).dump(2) + '\n');
}

}  // namespace fiddler
