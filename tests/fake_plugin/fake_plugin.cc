// A plugin (device/plugin.h) for machines without a GPU: the emulated device behind the function that a
// plugin exports, or, if the environment says so, one of the ways in which a plugin can fail.
//   FAKE_PLUGIN_NAME       what the device calls itself ("Fake GPU")
//   FAKE_PLUGIN_INSTALLED  bytes of memory it has, of which all are free (1 GiB)
//   FAKE_PLUGIN_FAILURE    no-device | too-old | silent | null | abi | size
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/units.h"
#include "device/emulated.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

std::string Setting(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

std::unique_ptr<Device> device;  // at most one
FiddlerDeviceApi api;

uint64_t InstalledBytes() {
  return ParseBytes(Setting("FAKE_PLUGIN_INSTALLED", "1GiB"), "FAKE_PLUGIN_INSTALLED");
}

const char* Name(FiddlerDevice*) {
  static const std::string name = Setting("FAKE_PLUGIN_NAME", "Fake GPU");
  return name.c_str();
}

int32_t Memory(FiddlerDevice* handle, FiddlerMemory* memory) {
  const int32_t status = device->api().memory(handle, memory);
  memory->installed_bytes = InstalledBytes();
  return status;
}

void Close(FiddlerDevice*) { device.reset(); }

int32_t Open(const FiddlerOpenOptions& options, std::string& error) {
  const std::string failure = Setting("FAKE_PLUGIN_FAILURE", "");
  if (failure == "silent") return FIDDLER_NO_DEVICE + 1;
  if (failure == "no-device") {
    error = "no device: none in this test";
    return FIDDLER_NO_DEVICE;
  }
  if (failure == "too-old") {
    error = "driver too old: expected one for CUDA 13.0, got one for CUDA 11.4";
    return FIDDLER_NO_DEVICE + 1;
  }
  if (options.memory_bytes > InstalledBytes()) {
    error = "too little memory: expected " + FormatBytes(options.memory_bytes) + " to be free, got " +
            FormatBytes(InstalledBytes());
    return FIDDLER_NO_DEVICE + 1;
  }
  EmulatorOptions emulated;
  emulated.memory_bytes = options.memory_bytes > 0 ? options.memory_bytes : InstalledBytes();
  device = OpenEmulatedDevice(emulated, BestKernels());
  api = device->api();
  api.name = Name;
  api.memory = Memory;
  api.close = Close;
  if (failure == "abi") api.abi_version = FIDDLER_DEVICE_ABI + 1;
  if (failure == "size") api.struct_bytes -= 8;
  return 0;
}

}  // namespace
}  // namespace fiddler

extern "C" __attribute__((visibility("default"))) int32_t fiddler_open_device(
    uint32_t abi_version, const FiddlerOpenOptions* options, const FiddlerDeviceApi** api,
    FiddlerDevice** device, char* error, uint64_t error_bytes) {
  if (abi_version != FIDDLER_DEVICE_ABI) return FIDDLER_NO_DEVICE + 1;
  std::string text;
  const int32_t status = fiddler::Open(*options, text);
  std::snprintf(error, error_bytes, "%s", text.c_str());
  if (status == 0 && fiddler::Setting("FAKE_PLUGIN_FAILURE", "") != "null") {
    *api = &fiddler::api;
    *device = fiddler::device->handle();
  }
  return status;
}
