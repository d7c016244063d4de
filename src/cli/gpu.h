// The GPU that --device auto and --device cuda mean, and what it is called elsewhere: among calibrations,
// among the machines built in.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "calibrate/calibration.h"
#include "device/device.h"
#include "plan/hardware.h"

namespace fiddler {

// Throws Error for a --gpu-memory that is no size, that is 0, or that an emulated device lacks.
void CheckGpuMemory(std::string_view device, const std::string& gpu_memory);

// `device`: cuda: throws Error if there is no GPU that can be used. auto: null then, with a note if there is
// one that should be usable. Anything else: null. gpu_memory may be empty: all that is free.
std::unique_ptr<Device> OpenGpu(std::string_view device, const std::string& gpu_memory);

// The key of measurements with the device: whatever part of its memory is used.
HardwareKey WithDevice(HardwareKey machine, Device& device);

// The built-in machine with the GPU most like the one of this name, for as long as it is not measured.
const HardwareProfile& HardwareLike(std::string_view device_name);

}  // namespace fiddler
