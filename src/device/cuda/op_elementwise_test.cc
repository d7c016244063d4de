#include "base/error_testing.h"
#include "device/cuda/op_testing.h"

namespace fiddler::cuda {
namespace {

using testing::RandomFloats;

constexpr int64_t kBeside = 8;  // numbers on either side that nobody may touch

// y, with what lies around it. Shifts: numbers by which x and y lie beside a vector.
std::vector<float> Sum(testing::TestDevice& device, int64_t count, int64_t x_shift, int64_t y_shift) {
  const FiddlerAddress x = device.Put(RandomFloats(x_shift + count + kBeside, 1));
  const FiddlerAddress y = device.Put(RandomFloats(y_shift + count + kBeside, 2));
  device->Add(device.stream(), {.count = count,
                                .x = x + static_cast<uint64_t>(x_shift) * sizeof(float),
                                .y = y + static_cast<uint64_t>(y_shift) * sizeof(float)});
  return device.Get(y, y_shift + count + kBeside);
}

TEST(CudaElementwiseTest, Add) {
  for (const int64_t count : {0, 1, 3, 4, 1023, 1024, 1025, 5000}) {
    for (const auto& [x_shift, y_shift] : {std::pair(0, 0), {1, 0}, {0, 1}, {3, 3}}) {
      testing::TestDevice cpu(testing::Mode::kOneThread, {}, GenericKernels());
      OpDevice device({}, static_cast<uint64_t>(count));
      ASSERT_EQ(Sum(device, count, x_shift, y_shift), Sum(cpu, count, x_shift, y_shift)) << count;
    }
  }
}

std::vector<float> Sigmoids(testing::TestDevice& device, int64_t count) {
  std::vector<float> values = RandomFloats(count + kBeside, 1);
  for (float& value : values) value *= 20;
  if (count > 4) std::copy_n(std::array{-INFINITY, INFINITY, -200.0f, 200.0f}.begin(), 4, values.begin());
  const FiddlerAddress x = device.Put(values);
  device->Sigmoid(device.stream(), {.count = count, .x = x});
  return device.Get(x, std::ssize(values));
}

TEST(CudaElementwiseTest, Sigmoid) {
  for (const int64_t count : {0, 1, 255, 256, 257}) {
    testing::TestDevice cpu(testing::Mode::kOneThread, {}, GenericKernels());
    OpDevice device;
    const std::vector<float> expected = Sigmoids(cpu, count);
    const std::vector<float> got = Sigmoids(device, count);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], static_cast<int64_t>(i) < count ? 5e-7 * expected[i] : 0) << count;
    }
  }
}

TEST(CudaElementwiseTest, SaysWhatIsWrong) {
  const auto error = [](const auto& run) {
    OpDevice device;
    run(device);
    return ErrorOf([&] { device->Synchronize(device.stream()); });
  };
  EXPECT_TRUE(testing::Says(error([](OpDevice& d) { d->Add(d.stream(), {.count = -1, .x = 0, .y = 0}); }),
                            {"add: count: expected 0 to 1073741824, got -1"}));
  EXPECT_TRUE(testing::Says(error([](OpDevice& d) { d->Sigmoid(d.stream(), {.count = -1, .x = 0}); }),
                            {"sigmoid: count: expected 0 to 1073741824, got -1"}));
}

}  // namespace
}  // namespace fiddler::cuda
