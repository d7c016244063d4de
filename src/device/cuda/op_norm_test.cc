#include "base/error_testing.h"
#include "device/cuda/op_testing.h"
#include "kernels/tolerances.h"

namespace fiddler::cuda {
namespace {

using testing::RandomFloats;

constexpr int64_t kBeside = 8;  // numbers behind y that nobody may touch

struct Norm {
  int64_t rows = 1;
  int64_t cols = 1;
  bool in_place = false;
  uint64_t shift = 0;  // bytes by which everything lies beside a vector
};

// y, and what is behind it.
std::vector<float> Normed(testing::TestDevice& device, const Norm& norm) {
  const auto pad = static_cast<int64_t>(norm.shift / sizeof(float));
  const int64_t count = pad + norm.rows * norm.cols + kBeside;
  const FiddlerAddress x = device.Put(RandomFloats(count, 1));
  const FiddlerAddress y = norm.in_place ? x : device.Put(RandomFloats(count, 3));
  device->RmsNorm(device.stream(),
                  {.rows = norm.rows,
                   .cols = norm.cols,
                   .x = x + norm.shift,
                   .y = y + norm.shift,
                   .weight = device.Put(RandomFloats(pad + norm.cols + kBeside, 2)) + norm.shift,
                   .epsilon = 0.01f,
                   .padding = 0});
  return device.Get(y, count);
}

TEST(CudaNormTest, RmsNorm) {
  std::vector<Norm> norms;
  for (const int64_t cols : {1, 4, 67, 1000, 2048, 2052, 3000, 4096, 4100, 8192, 8196}) {
    for (const bool in_place : {false, true})
      norms.push_back({.rows = 3, .cols = cols, .in_place = in_place});
  }
  norms.push_back({.rows = 1, .cols = 2048});
  norms.push_back({.rows = 2, .cols = 64, .shift = 4});
  for (const Norm& norm : norms) {
    testing::TestDevice cpu(testing::Mode::kOneThread, {}, GenericKernels());
    OpDevice device({}, static_cast<uint64_t>(norm.cols));
    const std::vector<float> expected = Normed(cpu, norm);
    const std::vector<float> got = Normed(device, norm);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], tolerance::kRmsNorm * std::abs(expected[i]))
          << norm.rows << " x " << norm.cols << ": " << i;
    }
    for (size_t i = expected.size() - kBeside; i < expected.size(); ++i) ASSERT_EQ(got[i], expected[i]);
  }
}

// The three kernels share a barrier: each by itself needs it.
TEST(CudaNormTest, EverySiteIsNeeded) {
  for (const int64_t cols : {64, 2052, 4100, 67}) {
    ExpectEverySiteIsNeeded([&](OpDevice& device) { return Normed(device, {.rows = 2, .cols = cols}); });
  }
}

TEST(CudaNormTest, SaysWhatIsWrong) {
  OpDevice device;
  EXPECT_TRUE(testing::Says(ErrorOf([&] { Normed(device, {.rows = 1, .cols = 0, .shift = 4}); }),
                            {"rms_norm: cols: expected 1 to 1073741824, got 0"}));
}

}  // namespace
}  // namespace fiddler::cuda
