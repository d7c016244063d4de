// Any bytes are either refused with one clear line, or calibrations that a plan can be made with.
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "calibrate/calibration.h"
#include "sealed_fuzz.h"

namespace {

using namespace fiddler;

void Check(std::string_view file) {
  try {
    const std::vector<Calibration> calibrations = ParseCalibrations(file, "input");
    for (const Calibration& calibration : calibrations) {
      CHECK(calibration.cost.has_gpu == !calibration.hardware.device.empty());
      CHECK(calibration.cost.cpu.Seconds(3) >= 0 && calibration.cost.dram_slice_seconds >= 0);
      CHECK(std::isfinite(calibration.read_gbps) && calibration.read_gbps > 0);
    }
    CHECK(ParseCalibrations(SerializeCalibrations(calibrations), "input") == calibrations);
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  Check(file);
  Check(SealedAnew({.name = "fiddler calibration", .version = 2}, file));
  return 0;
}
