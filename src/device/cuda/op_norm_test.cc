#include "device/cuda/op_testing.h"

namespace fiddler::cuda {
namespace {

using testing::RandomFloats;

std::vector<float> Normed(testing::TestDevice& device, int64_t rows, int64_t cols, bool in_place) {
  const FiddlerAddress x = device.Put(RandomFloats(rows * cols, 1));
  const FiddlerAddress y = in_place ? x : device.Room(rows * cols);
  device->RmsNorm(device.stream(), {.rows = rows,
                                    .cols = cols,
                                    .x = x,
                                    .y = y,
                                    .weight = device.Put(RandomFloats(cols, 2)),
                                    .epsilon = 0.01f,
                                    .padding = 0});
  return device.Get(y, rows * cols);
}

TEST(CudaNormTest, RmsNorm) {
  for (const int64_t rows : {1, 7}) {
    for (const int64_t cols : {1, 67, 256, 1000, 4096}) {
      for (const bool in_place : {false, true}) {
        testing::TestDevice cpu;
        OpDevice device({}, static_cast<uint64_t>(cols));
        const std::vector<float> expected = Normed(cpu, rows, cols, in_place);
        const std::vector<float> got = Normed(device, rows, cols, in_place);
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(got[i], expected[i], 4e-6 * std::abs(expected[i]))
              << rows << " x " << cols << ": " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fiddler::cuda
