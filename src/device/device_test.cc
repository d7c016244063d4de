// Device memory, and the border of C functions.
#include "device/device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/error_testing.h"
#include "device/emulated_testing.h"

namespace fiddler {
namespace {

using testing::AllNaN;
using testing::Mode;
using testing::Says;
using testing::TestDevice;

TEST(DeviceMemoryTest, IsCountedAndCapped) {
  EmulatorOptions options;
  options.memory_bytes = 10'000;
  TestDevice device(Mode::kOneThread, options);
  DeviceBuffer first(*device, 1000, "first");
  EXPECT_EQ(first.bytes(), 1000u);
  EXPECT_EQ(device->memory().cap_bytes, 10'000u);
  EXPECT_EQ(device->memory().used_bytes, 1024u);
  const FiddlerAddress address = first.address();
  {
    const DeviceBuffer second(*device, 8000, "second");
    EXPECT_EQ(second.address() % 256, 0u);
    EXPECT_TRUE(Says(ErrorOf([&] { DeviceBuffer(*device, 1000, "KV cache"); }),
                     {"emulated GPU: KV cache: allocate: expected 1000 B", "got 784 B of"}));
    EXPECT_TRUE(Says(ErrorOf([&] { DeviceBuffer(*device, UINT64_MAX, "x"); }), {"allocate"}));
  }
  EXPECT_EQ(device->memory().used_bytes, 1024u);
  EXPECT_EQ(device->memory().peak_bytes, 1024u + 8192u);
  DeviceBuffer moved = std::move(first);
  EXPECT_EQ(moved.address(), address);
  moved = DeviceBuffer();
  EXPECT_EQ(device->memory().used_bytes, 0u);
  EXPECT_NE(DeviceBuffer(*device, 1000, "again").address(), address);
}

// A device fails for good, so every mistake has one of its own.
template <typename Mistake>
std::string ErrorOfMistake(const Mistake& mistake) {
  TestDevice device;
  const FiddlerAddress x = device.Put(std::vector<float>(64, 1.0f));
  return ErrorOf([&] {
    mistake(device, x);
    device->Synchronize(device.stream());
  });
}

TEST(DeviceMemoryTest, WhatIsNotThereIsAnError) {
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     device->Clear(device.stream(), x + 4, 256);
                   }),
                   {"clear: to: 256 bytes at", "do not lie in the allocation of 256 bytes"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     std::vector<float> source(65);
                     device->CopyIn(device.stream(), x, source.data(), 65 * sizeof(float));
                     device->Synchronize(device.stream());
                   }),
                   {"copy_in: to"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     float value = 0;
                     device->CopyOut(device.stream(), &value, x - 4, sizeof(float));
                     device->Synchronize(device.stream());
                   }),
                   {"copy_out: from"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     device->Sigmoid(device.stream(), {.count = 1, .x = x + 2});
                   }),
                   {"sigmoid: x: expected an address that is a multiple of 4"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     DeviceBuffer gone(*device, 256, "x");
                     const FiddlerAddress address = gone.address();
                     gone = DeviceBuffer();
                     device->Add(device.stream(), {.count = 64, .x = x, .y = address});
                   }),
                   {"add: y: 256 bytes at", "were released"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress) {
                     device->Add(device.stream(), {.count = 1, .x = 4096, .y = 4096});
                   }),
                   {"add: x: 0x1000 is no address of this device"}));
}

TEST(DeviceMemoryTest, ReleaseWaits) {
  for (const Mode mode : testing::kModes) {
    TestDevice device(mode);
    const std::vector<float> source(64, 1.0f);
    std::vector<float> target(64);
    {
      const DeviceBuffer x(*device, 256, "x");
      device->CopyIn(device.stream(), x.address(), source.data(), 256);
      device->CopyOut(device.stream(), target.data(), x.address(), 256);
    }
    EXPECT_EQ(target, source);
    device->Synchronize(device.stream());
  }
}

// As an engine may, with what it loads in the background.
TEST(DeviceMemoryTest, AnotherThreadPinsMeanwhile) {
  constexpr size_t kParts = 200;
  TestDevice device(Mode::kThreaded);
  std::vector<std::byte> arena(kParts * 16);
  const PinnedBuffer flags = testing::Flags(*device, 1);
  std::string text;
  std::thread pinning([&] {
    for (size_t part = 0; part < kParts; ++part) device->Pin({arena.data() + part * 16, 16});
    text = ErrorOf([&] { device->Pin({arena.data() + 8, 1}); });
  });
  for (int i = 0; i < 200; ++i) {
    device->Post(device.stream(), flags.as<uint32_t>());
    device->WaitFlag(flags.as<uint32_t>(), 10, "post");
    EXPECT_EQ(ErrorOf([&] { device->Synchronize(99); }), "emulated GPU: no stream 99")
        << "a text of the other thread";
  }
  pinning.join();
  EXPECT_TRUE(Says(text, {"overlap"}));
}

TEST(DeviceMemoryTest, PinnedMemory) {
  TestDevice device;
  alignas(4) std::byte own[64] = {};
  const std::span<const std::byte> middle(own + 16, 8);
  device->Pin(middle);
  EXPECT_TRUE(Says(ErrorOf([&] { device->Pin({own, 17}); }), {"overlap"}));
  EXPECT_TRUE(Says(ErrorOf([&] { device->Pin({own + 23, 17}); }), {"overlap"}));
  device->Unpin(middle);
  device->Pin(own);
  EXPECT_TRUE(Says(ErrorOf([&] { device->Pin({own + 60, 8}); }), {"overlap"}));
  device->SetFlag(reinterpret_cast<uint32_t*>(own + 60));
  EXPECT_EQ(own[60], std::byte{1});
  device->Unpin(own);
  EXPECT_TRUE(Says(ErrorOf([&] { device->Unpin(own); }), {"unpin"}));
  const PinnedBuffer buffer(*device, 8, "pinned");
  EXPECT_EQ(*buffer.as<uint32_t>(), 0xffffffffu) << "not poisoned";
  EXPECT_TRUE(Says(ErrorOf([&] { device->SetFlag(buffer.as<uint32_t>()); }), {"expected 0"}));
  EXPECT_TRUE(Says(ErrorOf([&] { device->SetFlag(buffer.as<uint32_t>() + 2); }), {"pinned"}));
}

// The mistakes an operation's numbers can have; what they do with good ones is tested beside them.
TEST(DeviceTest, ArgumentsAreChecked) {
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     device->Add(device.stream(), {.count = -1, .x = x, .y = x});
                   }),
                   {"add: count: expected 0 to"}));
  EXPECT_TRUE(Says(ErrorOfMistake([](TestDevice& device, FiddlerAddress x) {
                     device->Route(device.stream(), {.tokens = 1,
                                                     .num_experts = 4,
                                                     .top_k = 5,
                                                     .logits = x,
                                                     .experts = x,
                                                     .weights = x,
                                                     .renormalize = 0,
                                                     .padding = 0});
                   }),
                   {"route: top_k: expected 1 to 4, got 5"}));
  const auto mat_mul = [](FiddlerAddress x, FiddlerAddress y, int32_t format, int32_t rounding) {
    return ErrorOfMistake([=](TestDevice& device, FiddlerAddress one) {
      const FiddlerAddress w = device.Put(std::vector<float>(32, 0.0f));
      const FiddlerAddress rows = device.Put(std::vector<int32_t>{63});
      device->MatMul(
          device.stream(),
          {.tokens = 1,
           .x = one + x,
           .row_index = x == 8 ? rows : 0,
           .w = {.data = w + (x == 12 ? 4 : 0), .rows = 32, .cols = 1, .format = format, .padding = 0},
           .bias = 0,
           .y = one + y,
           .rounding = rounding,
           .padding = 0});
    });
  };
  EXPECT_TRUE(Says(mat_mul(0, 4, 0, 1), {"mat_mul: no products of f32 weights have rounding 1"}));
  EXPECT_TRUE(Says(mat_mul(0, 4, 9, 0), {"mat_mul: no format 9"}));
  EXPECT_TRUE(Says(mat_mul(0, 0, 0, 0), {"mat_mul: x and y overlap"}));
  EXPECT_TRUE(Says(mat_mul(0, 160, 0, 0), {"mat_mul: y: 128 bytes"}));
  EXPECT_TRUE(Says(mat_mul(12, 16, 0, 0), {"mat_mul: w: expected an address that is a multiple of 256"}));
  EXPECT_TRUE(Says(mat_mul(8, 4, 0, 0), {"mat_mul: x: 256 bytes"}));
}

TEST(DeviceTest, BatchesAreChecked) {
  constexpr int64_t kCacheBytes = 2 * 2 * 32 * 32 * 4;  // two blocks of keys and values of 32 dimensions
  struct Numbers {
    std::vector<int32_t> positions = {30, 31, 32};
    std::vector<int32_t> sequences = {0, 0, 0};
    std::vector<int32_t> tables = {1, 0};
    int64_t heads = 2;
    uint64_t layer_offset = 0;
  };
  const auto attend = [](const Numbers& numbers) {
    TestDevice device;
    const std::vector<float> q(3 * 64, 1.0f);
    device->Attend(device.stream(),
                   {.batch = {.tokens = 3,
                              .positions = device.Put(numbers.positions),
                              .sequences = device.Put(numbers.sequences),
                              .block_tables = device.Put(numbers.tables),
                              .table_stride = 2},
                    .num_heads = numbers.heads,
                    .q = device.Put(q),
                    .out = device.Room(3 * 64),
                    .window = 0,
                    .scale = 1,
                    .padding = 0,
                    .kv = {.layer = device.Room<std::byte>(kCacheBytes) + numbers.layer_offset,
                           .head_stride = kCacheBytes,
                           .kv_heads = 1,
                           .head_dim = 32,
                           .dtype = static_cast<int32_t>(DType::kF32),
                           .padding = 0}});
    device->Synchronize(device.stream());
    return true;
  };
  EXPECT_TRUE(attend({}));
  EXPECT_TRUE(Says(ErrorOf([&] {
                     attend({.positions = {30, 32, 33}});
                   }),
                   {"attend: token 1: position 32 after 30"}));
  EXPECT_TRUE(Says(ErrorOf([&] {
                     attend({.positions = {62, 63, 64}});
                   }),
                   {"attend: position: expected 0 to 63"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.sequences = {0, -1, 0}}); }), {"attend: sequences: no row -1"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.sequences = {0, 1, 1}}); }), {"attend: block_tables: 16 bytes"}));
  EXPECT_TRUE(Says(ErrorOf([&] {
                     attend({.positions = {0, 0, 1}, .sequences = {0, 1, 0}, .tables = {0, 0, 0, 0}});
                   }),
                   {"attend: token 2: sequence 0 again"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.tables = {1, -1}}); }), {"positions from 32 on are in block -1"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.tables = {1, 2}}); }), {"attend: KV cache: 24576 bytes"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.heads = 3}); }), {"attend: q: 1152 bytes"}));
  EXPECT_TRUE(Says(ErrorOf([&] { attend({.layer_offset = 32}); }), {"attend: KV cache", "a multiple of 64"}));
}

TEST(DeviceTest, FfnsAreChecked) {
  struct Numbers {
    int64_t neurons = 64;
    int64_t num_slices = 1;
    int64_t tokens = 2;
    std::vector<int32_t> rows = {0, 1};
    int32_t rounding = 0;
    int64_t less_bytes = 0;
  };
  constexpr int64_t kSliceBytes = 3 * 64 * 32 * 4;
  const auto ffn = [](const Numbers& numbers) {
    TestDevice device;
    const FiddlerSlices entry = {.slice = device.Room<std::byte>(kSliceBytes),
                                 .num_slices = numbers.num_slices,
                                 .tokens = numbers.tokens,
                                 .rows = numbers.rows.data(),
                                 .weights = nullptr,
                                 .weights_on_device = 0};
    device->Ffn(device.stream(), {.hidden = 32,
                                  .slice_neurons = numbers.neurons,
                                  .slice_bytes = kSliceBytes - numbers.less_bytes,
                                  .format = static_cast<int32_t>(WeightFormat::kF32),
                                  .rounding = numbers.rounding,
                                  .x = device.Room(64),
                                  .out = device.Room(64),
                                  .entries = &entry,
                                  .num_entries = 1});
    device->Synchronize(device.stream());
    return true;
  };
  EXPECT_TRUE(ffn({}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.neurons = 32}); }), {"ffn: slice_neurons: expected 64 to"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.neurons = 96}); }), {"ffn: slices of 96 neurons"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.num_slices = 2}); }), {"ffn: slice: 49152 bytes"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.rows = {0, 2}}); }), {"ffn: x: 384 bytes"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.rows = {0, -1}}); }), {"ffn: rows: no row -1"}));
  EXPECT_TRUE(
      Says(ErrorOf([&] { ffn({.rounding = 2}); }), {"ffn: no products of f32 weights have rounding 2"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.less_bytes = 64}); }), {"ffn: slice_bytes: expected 24576"}));
  EXPECT_TRUE(Says(ErrorOf([&] { ffn({.tokens = -1}); }), {"ffn: an entry of -1 tokens"}));
}

TEST(DeviceTest, StatusAndTextCrossTheBorder) {
  TestDevice device;
  const FiddlerDeviceApi& api = device->api();
  FiddlerDevice* const handle = device->handle();
  EXPECT_EQ(api.abi_version, FIDDLER_DEVICE_ABI);
  EXPECT_EQ(api.struct_bytes, sizeof(FiddlerDeviceApi));
  void (*functions[(sizeof(api) - 8) / sizeof(void (*)())])();
  std::memcpy(functions, reinterpret_cast<const std::byte*>(&api) + 8, sizeof(functions));
  for (const auto function : functions) EXPECT_NE(function, nullptr);

  EXPECT_STREQ(api.name(handle), "emulated GPU");
  EXPECT_NE(api.synchronize(handle, 99), 0);
  EXPECT_STREQ(api.error(handle), "no stream 99");
  EXPECT_EQ(api.synchronize(handle, device.stream()), 0);
  EXPECT_STREQ(api.error(handle), "");
  EXPECT_NE(api.record(handle, -1, 0), 0);
  EXPECT_NE(api.record(handle, device.stream(), 0), 0);
  EXPECT_STREQ(api.error(handle), "no event 0");
  EXPECT_NE(api.launch(handle, device.stream(), 3), 0);
  EXPECT_NE(api.release_segment(handle, -1), 0);
  EXPECT_NE(api.release(handle, 12345), 0);
  EXPECT_STREQ(api.error(handle), "release: 0x3039 is not what allocate gave");
  EXPECT_NE(api.release_pinned(handle, &device), 0);
  EXPECT_NE(api.allocate(handle, 1, nullptr), 0);
  EXPECT_NE(api.memory(handle, nullptr), 0);
  EXPECT_NE(api.create_stream(handle, nullptr), 0);
  EXPECT_NE(api.copy_in(handle, device.stream(), device.Room(1), nullptr, 4), 0);
  EXPECT_NE(api.rms_norm(handle, device.stream(), nullptr), 0);
  EXPECT_NE(api.ffn(handle, device.stream(), nullptr), 0);
  EXPECT_NE(api.set_flag(handle, nullptr), 0);
  EXPECT_EQ(api.synchronize(handle, device.stream()), 0) << "a wrong call is not the end of the device";
}

TEST(DeviceTest, MemoryThatIsNotThere) {
  EmulatorOptions options;
  options.memory_bytes = uint64_t{1} << 60;
  const std::unique_ptr<Device> device = OpenEmulatedDevice(options, BestKernels());  // takes nothing yet
  EXPECT_TRUE(Says(ErrorOf([&] { DeviceBuffer(*device, uint64_t{1} << 50, "weights"); }),
                   {"weights", "expected", "of free memory"}));
}

}  // namespace
}  // namespace fiddler
