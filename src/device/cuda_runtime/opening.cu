#include "device/cuda_runtime/opening.h"

#include <cstdlib>

#include "device/cuda_runtime/check.h"

namespace fiddler::cuda {
namespace {

std::string VersionText(int version) {  // 13020 -> "13.2"
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int CountDevices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (status == cudaSuccess || status == cudaErrorNoDevice)
    throw NoDevice("no device: the driver finds no GPU");
  if (status == cudaErrorInsufficientDriver) {  // without any driver too
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
      throw NoDevice("no driver: libcuda.so.1, which comes with NVIDIA's driver, is not there");
    }
    Fail("driver too old: expected one for CUDA %s, got one for CUDA %s", VersionText(CUDART_VERSION).c_str(),
         VersionText(driver).c_str());
  }
  Fail("no GPU can be used: %s (%s)", cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace

Properties EnterDevice(int ordinal) {
  // Both are read when the context is made. The connections: streams that share one wait for each other, so
  // one that waits for the host could hold up another; there are 8 unless one says otherwise, and at most 32.
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  const int count = CountDevices();
  if (ordinal < 0 || ordinal >= count)
    Fail("no device: expected one from 0 to %d, got %d", count - 1, ordinal);
  Check(cudaSetDevice(ordinal), "cudaSetDevice");
  Check(cudaFree(nullptr), "a context");
  cudaDeviceProp properties = {};
  Check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  return {.name = properties.name, .num_sms = properties.multiProcessorCount};
}

}  // namespace fiddler::cuda
