// Which GPU the tests of this program run on, if they are to run on one: tools/gpu_trial looks for the line.
#include <cstdio>

#include "device/cuda/op_testing.h"
#include "device/cuda_testing.h"

namespace fiddler::cuda {
namespace {

TEST(RealGpuTest, IsThereIfAskedFor) {
  if (!OnRealGpu()) GTEST_SKIP() << "FIDDLER_TEST_CUDA is not set: kernels are played";
  const std::unique_ptr<Device> device = OpenCudaDevice(0);
  std::printf("device: %s\n", std::string(device->name()).c_str());
}

}  // namespace
}  // namespace fiddler::cuda
