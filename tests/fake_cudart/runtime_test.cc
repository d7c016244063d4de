// The runtime of the CUDA plugin, as nvcc compiled it, on a CUDA runtime played by threads (fake_cudart.h).
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error_testing.h"
#include "base/memory.h"
#include "device/device.h"
#include "device/emulated_testing.h"
#include "fake_cudart.h"

extern "C" int32_t fiddler_open_device(uint32_t abi_version, const FiddlerOpenOptions* options,
                                       const FiddlerDeviceApi** api, FiddlerDevice** device, char* error,
                                       uint64_t error_bytes);

namespace fiddler {
namespace {

using fake::MemoryOperations;
using testing::Says;

constexpr uint64_t kMiB = 1 << 20;

struct Opening {
  int32_t status = 0;
  std::string error;
  std::unique_ptr<Device> device;
};

Opening Open(const fake::Settings& settings = {}, uint64_t memory_bytes = 16 * kMiB, int32_t ordinal = 0) {
  fake::Reset(settings);
  const FiddlerOpenOptions options = {.memory_bytes = memory_bytes, .ordinal = ordinal, .padding = 0};
  const FiddlerDeviceApi* api = nullptr;
  FiddlerDevice* handle = nullptr;
  char error[512] = "";
  Opening opening;
  opening.status = fiddler_open_device(FIDDLER_DEVICE_ABI, &options, &api, &handle, error, sizeof(error));
  opening.error = error;
  if (opening.status == 0) opening.device = std::make_unique<Device>(*api, handle);
  return opening;
}

// An open device; at the end nothing of it is left.
class CudaRuntimeTest : public ::testing::Test {
 protected:
  void TearDown() override {
    device_.reset();
    EXPECT_EQ(fake::counts().Left(), 0);
  }
  void OpenDevice(const fake::Settings& settings = {}) {
    Opening opening = Open(settings);
    ASSERT_EQ(opening.error, "");
    device_ = std::move(opening.device);
    stream_ = device_->CreateStream();
  }

  std::unique_ptr<Device> device_;
  FiddlerStream stream_ = 0;
};

TEST(CudaOpeningTest, EveryReasonIsSaid) {
  EXPECT_EQ(Open({.count_status = cudaErrorInsufficientDriver, .driver_version = 0}).status,
            FIDDLER_NO_DEVICE);
  EXPECT_TRUE(
      Says(Open({.count_status = cudaErrorInsufficientDriver, .driver_version = 0}).error, {"no driver"}));
  const Opening old = Open({.count_status = cudaErrorInsufficientDriver, .driver_version = 11040});
  EXPECT_GT(old.status, FIDDLER_NO_DEVICE);
  EXPECT_TRUE(Says(old.error, {"driver too old", "got one for CUDA 11.4"}));
  EXPECT_EQ(Open({.count_status = cudaErrorNoDevice}).status, FIDDLER_NO_DEVICE);
  EXPECT_EQ(Open({.count = 0}).status, FIDDLER_NO_DEVICE);
  EXPECT_TRUE(Says(Open({}, kMiB, 3).error, {"expected one from 0 to 0, got 3"}));
  EXPECT_TRUE(Says(Open({.free_bytes = 10 * kMiB}, 11 * kMiB).error,
                   {"too little memory: expected 11.0 MiB to be free, got 10.0 MiB of 2.0 GiB"}));
  EXPECT_TRUE(Says(Open({.free_bytes = 512 * kMiB}, 0).error, {"too little memory"}));
  EXPECT_EQ(fake::counts().Left(), 0) << "what was opened by then is closed";
}

TEST(CudaOpeningTest, TakesWhatIsFreeButForAReserve) {
  const Opening opening = Open({}, 0);
  ASSERT_EQ(opening.error, "");
  const FiddlerMemory memory = opening.device->memory();
  EXPECT_EQ(memory.cap_bytes, 1024 * kMiB - 512 * kMiB);
  EXPECT_EQ(memory.installed_bytes, 2048 * kMiB);
  EXPECT_EQ(opening.device->name(), "Threads");
}

TEST(CudaOpeningTest, AwaitsInTheFirstWayThatWorks) {
  struct Case {
    MemoryOperations memory_operations;
    const char* forced;
    bool spins, host_function;
  };
  for (const Case& c : {Case{MemoryOperations::kWork, nullptr, false, false},
                        Case{MemoryOperations::kAbsent, nullptr, true, false},
                        Case{MemoryOperations::kRefused, nullptr, true, false},
                        Case{MemoryOperations::kWork, "kernel", true, false},
                        Case{MemoryOperations::kWork, "hostfunc", false, true},
                        Case{MemoryOperations::kWork, "memops", false, false}}) {
    if (c.forced != nullptr) setenv("FIDDLER_CUDA_AWAIT", c.forced, 1);
    const Opening opening = Open({.memory_operations = c.memory_operations});
    unsetenv("FIDDLER_CUDA_AWAIT");
    ASSERT_EQ(opening.error, "");
    EXPECT_EQ(fake::counts().spins > 0, c.spins);
    EXPECT_EQ(fake::counts().host_functions > 0, c.host_function);
    EXPECT_EQ(fake::counts().memory_waits > 0, !c.spins && !c.host_function);

    Device& device = *opening.device;
    const PinnedBuffer flags = testing::Flags(device, 2);
    uint32_t* const there = flags.as<uint32_t>();
    const FiddlerStream stream = device.CreateStream();
    for (int round = 0; round < 50; ++round) {
      device.Await(stream, there);
      device.Post(stream, there + 1);
      EXPECT_EQ(std::atomic_ref(there[1]).load(), 0u) << "it did not wait";
      device.SetFlag(there);
      device.WaitFlag(there + 1, 10, "hand-over");
    }
    device.Synchronize(stream);
    EXPECT_EQ(there[0], 0u);
    EXPECT_EQ(there[1], 0u);
  }
  setenv("FIDDLER_CUDA_AWAIT", "telepathy", 1);
  EXPECT_TRUE(Says(Open().error, {"FIDDLER_CUDA_AWAIT", "telepathy"}));
  setenv("FIDDLER_CUDA_AWAIT", "memops", 1);
  EXPECT_TRUE(Says(Open({.memory_operations = MemoryOperations::kRefused}).error, {"memops: ", "error 801"}));
  unsetenv("FIDDLER_CUDA_AWAIT");
}

TEST(CudaOpeningTest, AWayThatHangsIsGivenUp) {
  const Opening opening = Open({.memory_operations = MemoryOperations::kHang});
  EXPECT_EQ(opening.error, "");
  EXPECT_GT(fake::counts().spins, 0);
  fake::Break(cudaErrorUnknown);  // so that the stream of the trial ends
}

TEST_F(CudaRuntimeTest, CopiesThereAndBack) {
  OpenDevice();
  const DeviceBuffer memory(*device_, 3 * kMiB, "memory");
  std::vector<int32_t> source(3 * kMiB / 4);
  std::iota(source.begin(), source.end(), 0);
  std::vector<int32_t> back(source.size());
  device_->CopyIn(stream_, memory.address(), source.data(), 3 * kMiB);
  device_->CopyOut(stream_, back.data(), memory.address(), 3 * kMiB);
  device_->Synchronize(stream_);
  EXPECT_EQ(back, source);
  device_->Clear(stream_, memory.address() + 8, 8);
  const PinnedBuffer pinned(*device_, 64, "pinned");
  device_->CopyOut(stream_, pinned.data(), memory.address(), 24);
  device_->Synchronize(stream_);
  EXPECT_EQ(std::vector<int32_t>(pinned.as<int32_t>(), pinned.as<int32_t>() + 6),
            (std::vector<int32_t>{0, 1, 0, 0, 4, 5}));
  EXPECT_EQ(fake::counts().small_copies, 1);
  device_->CopyOut(stream_, pinned.data() + 1, memory.address(), 24);  // no words
  device_->CopyOut(stream_, pinned.data(), memory.address(), 23);
  device_->Synchronize(stream_);
  EXPECT_EQ(fake::counts().small_copies, 1);
}

// One arena, pinned in parts by another thread while this one copies from all of it. The runtime that is
// played refuses a copy that touches two registrations.
TEST_F(CudaRuntimeTest, PinsInTheBackground) {
  OpenDevice({.read_only_registers_alone = true});
  constexpr uint64_t kPart = 64 << 10;
  constexpr uint64_t kParts = 64;
  HugePageBuffer arena(kPart * kParts, "test");
  const std::span<std::byte> all = arena.bytes();
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::byte>(i * 7 >> 8);
  DeviceBuffer memory(*device_, all.size(), "memory");
  std::string failure;
  std::thread pinning([&] {
    for (uint64_t part = 0; part < kParts; ++part) device_->Pin(all.subspan(part * kPart, kPart));
    failure = ErrorOf([&] { device_->Pin(all.first(1)); });
  });
  std::vector<std::byte> back(all.size());
  for (int round = 0; round < 20; ++round) {
    device_->CopyIn(stream_, memory.address(), all.data(), all.size());
    EXPECT_EQ(ErrorOf([&] { device_->Synchronize(99); }), "Threads: no stream 99")
        << "the text of this thread";
    device_->CopyOut(stream_, back.data(), memory.address(), all.size());
    device_->Synchronize(stream_);
    ASSERT_TRUE(std::equal(back.begin(), back.end(), all.begin()));
  }
  pinning.join();
  EXPECT_TRUE(Says(failure, {"pin: 1 bytes", "overlap"}));
  EXPECT_EQ(fake::counts().registrations, static_cast<int>(kParts));
  for (uint64_t part = 0; part < kParts / 2; ++part) device_->Unpin(all.subspan(part * kPart, kPart));
  EXPECT_EQ(fake::counts().registrations, static_cast<int>(kParts / 2)) << "the others go with the device";
  memory = DeviceBuffer();
  device_.reset();  // before the arena
}

TEST_F(CudaRuntimeTest, StreamsWaitForEvents) {
  OpenDevice();
  const FiddlerStream other = device_->CreateStream();
  const FiddlerEvent event = device_->CreateEvent();
  const PinnedBuffer flags = testing::Flags(*device_, 1);
  const DeviceBuffer memory(*device_, 4, "memory");
  const float one = 1;
  float result = 0;
  device_->Clear(stream_, memory.address(), 4);
  device_->Await(stream_, flags.as<uint32_t>());
  device_->CopyIn(stream_, memory.address(), &one, 4);
  device_->Record(stream_, event);
  device_->WaitEvent(other, event);
  device_->CopyOut(other, &result, memory.address(), 4);
  device_->SetFlag(flags.as<uint32_t>());
  device_->Synchronize(other);
  EXPECT_EQ(result, 1);
}

TEST_F(CudaRuntimeTest, SegmentsRunAsOftenAsTheyAreLaunched) {
  OpenDevice();
  const DeviceBuffer memory(*device_, 512, "memory");
  const FiddlerAddress x = memory.address();
  const FiddlerAddress y = x + 256;
  const float start[] = {2, 5};
  device_->CopyIn(stream_, x, &start[0], 4);
  device_->CopyIn(stream_, y, &start[1], 4);
  device_->Synchronize(stream_);
  PinnedBuffer result(*device_, 4, "result");
  device_->BeginCapture(stream_);
  device_->Add(stream_, {.count = 1, .x = x, .y = y});
  device_->CopyOut(stream_, result.data(), y, 4);
  EXPECT_TRUE(Says(ErrorOf([&] { device_->BeginCapture(stream_); }), {"being captured"}));
  EXPECT_TRUE(Says(ErrorOf([&] { device_->Synchronize(stream_); }), {"being captured"}));
  const int32_t row = 0;
  const FiddlerSlices entry = {
      .slice = x, .num_slices = 1, .tokens = 1, .rows = &row, .weights = nullptr, .weights_on_device = 0};
  FiddlerFfn ffn = {};
  ffn.out = y;
  ffn.entries = &entry;
  ffn.num_entries = 1;
  EXPECT_TRUE(Says(ErrorOf([&] { device_->Ffn(stream_, ffn); }), {"within a capture"}));
  const FiddlerSegment segment = device_->EndCapture(stream_);
  *result.as<float>() = 0;
  for (int launch = 1; launch <= 3; ++launch) {
    device_->Launch(stream_, segment);
    device_->Synchronize(stream_);
    EXPECT_EQ(*result.as<float>(), 5 + 2 * launch);
  }
  EXPECT_TRUE(Says(ErrorOf([&] { device_->EndCapture(stream_); }), {"not being captured"}));
  device_->ReleaseSegment(segment);
  EXPECT_TRUE(Says(ErrorOf([&] { device_->Launch(stream_, segment); }), {"no segment 0"}));
  device_->BeginCapture(stream_);  // and never ended: close does
}

// Far more than the ring holds, while the stream cannot go on at first: nothing is overwritten before it was
// read.
TEST_F(CudaRuntimeTest, ArraysOfOperationsStayUntilTheyAreRead) {
  OpenDevice();
  constexpr int64_t kTokens = 20'000;
  constexpr int kOperations = 300;
  const DeviceBuffer memory(*device_, static_cast<uint64_t>(kTokens) * 4 * 2, "memory");
  std::vector<int32_t> rows(kTokens);
  std::vector<std::vector<int32_t>> results(kOperations, std::vector<int32_t>(kTokens * 2));
  for (int operation = 0; operation < kOperations; ++operation) {
    std::iota(rows.begin(), rows.end(), operation * 1000);
    const FiddlerSlices entry = {.slice = 0,
                                 .num_slices = 1,
                                 .tokens = kTokens,
                                 .rows = rows.data(),
                                 .weights = nullptr,
                                 .weights_on_device = 0};
    const FiddlerSlices entries[] = {entry, entry};
    FiddlerFfn ffn = {};
    ffn.out = memory.address();
    ffn.entries = entries;
    ffn.num_entries = 2;
    device_->Ffn(stream_, ffn);
    std::fill(rows.begin(), rows.end(), -1);  // was read before the call returned
    device_->CopyOut(stream_, results[static_cast<size_t>(operation)].data(), memory.address(),
                     memory.bytes());
  }
  device_->Synchronize(stream_);
  for (int operation = 0; operation < kOperations; ++operation) {
    std::iota(rows.begin(), rows.end(), operation * 1000);
    const std::vector<int32_t>& result = results[static_cast<size_t>(operation)];
    ASSERT_TRUE(std::equal(rows.begin(), rows.end(), result.begin())) << operation;
    ASSERT_TRUE(std::equal(rows.begin(), rows.end(), result.begin() + kTokens)) << operation;
  }
  rows.resize(3 * kMiB);
  const FiddlerSlices large = {.slice = 0,
                               .num_slices = 1,
                               .tokens = static_cast<int64_t>(rows.size()),
                               .rows = rows.data(),
                               .weights = nullptr,
                               .weights_on_device = 0};
  FiddlerFfn ffn = {};
  ffn.out = memory.address();
  ffn.entries = &large;
  ffn.num_entries = 1;
  EXPECT_TRUE(
      Says(ErrorOf([&] { device_->Ffn(stream_, ffn); }), {"expected at most 8.0 MiB, got another 12.0 MiB"}));
}

TEST_F(CudaRuntimeTest, AWaitThatNobodyAnswersEnds) {
  OpenDevice();
  const PinnedBuffer flags = testing::Flags(*device_, 1);
  EXPECT_TRUE(Says(ErrorOf([&] { device_->WaitFlag(flags.as<uint32_t>(), 0.02, "layer 3, routing"); }),
                   {"Threads: layer 3, routing: wait_flag: no answer within 0.02 s"}));
  device_->Synchronize(stream_);  // not the end of the device
}

TEST_F(CudaRuntimeTest, AFailureEndsAWaitAndIsKept) {
  OpenDevice();
  const PinnedBuffer flags = testing::Flags(*device_, 1);
  const DeviceBuffer memory(*device_, 256, "memory");
  const auto start = std::chrono::steady_clock::now();
  std::thread breaking([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fake::Break(cudaErrorIllegalAddress);
  });
  const std::string first = ErrorOf([&] { device_->WaitFlag(flags.as<uint32_t>(), 60, "layer 0"); });
  breaking.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_TRUE(Says(first, {"layer 0", "an illegal memory access was encountered"}));
  fake::Break(cudaErrorUnknown);
  EXPECT_TRUE(Says(ErrorOf([&] { device_->CopyIn(stream_, memory.address(), &start, 4); }),
                   {"an illegal memory access was encountered"}))
      << "the first is kept";
  EXPECT_TRUE(Says(ErrorOf([&] { device_->CreateStream(); }), {"an illegal memory access"}));
}

TEST_F(CudaRuntimeTest, CloseLetsGoOfWhoeverWaits) {
  OpenDevice();
  const auto start = std::chrono::steady_clock::now();
  {
    const FiddlerDeviceApi& api = device_->api();
    void* data = nullptr;  // goes with the device
    ASSERT_EQ(api.allocate_pinned(device_->handle(), 8, &data), 0);
    auto* const flags = static_cast<uint32_t*>(data);
    flags[0] = flags[1] = 0;
    for (int i = 0; i < 3; ++i) device_->Await(stream_, flags);
    device_->Await(device_->CreateStream(), flags + 1);
    device_.reset();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));
}

TEST_F(CudaRuntimeTest, WrongArgumentsAreErrors) {
  OpenDevice();
  const FiddlerDeviceApi& api = device_->api();
  FiddlerDevice* const handle = device_->handle();
  void (*functions[(sizeof(api) - 8) / sizeof(void (*)())])();
  std::memcpy(functions, reinterpret_cast<const std::byte*>(&api) + 8, sizeof(functions));
  for (const auto function : functions) EXPECT_NE(function, nullptr);
  EXPECT_EQ(api.struct_bytes, sizeof(FiddlerDeviceApi));

  const DeviceBuffer memory(*device_, 256, "memory");
  const FiddlerAddress x = memory.address();
  uint32_t loose = 0;
  EXPECT_NE(api.synchronize(handle, 99), 0);
  EXPECT_STREQ(api.error(handle), "no stream 99");
  EXPECT_EQ(api.synchronize(handle, stream_), 0);
  EXPECT_STREQ(api.error(handle), "");
  EXPECT_NE(api.record(handle, -1, 0), 0);
  EXPECT_NE(api.record(handle, stream_, 0), 0);
  EXPECT_STREQ(api.error(handle), "no event 0");
  EXPECT_NE(api.launch(handle, stream_, 3), 0);
  EXPECT_NE(api.release_segment(handle, -1), 0);
  EXPECT_NE(api.release(handle, x + 256), 0);
  EXPECT_NE(api.release_pinned(handle, &loose), 0);
  EXPECT_NE(api.unpin(handle, &loose), 0);
  EXPECT_NE(api.pin(handle, nullptr, 5), 0);
  EXPECT_NE(api.allocate(handle, 1, nullptr), 0);
  EXPECT_NE(api.allocate_pinned(handle, 1, nullptr), 0);
  EXPECT_NE(api.memory(handle, nullptr), 0);
  EXPECT_NE(api.create_stream(handle, nullptr), 0);
  EXPECT_NE(api.create_event(handle, nullptr), 0);
  EXPECT_NE(api.copy_in(handle, stream_, x, nullptr, 4), 0);
  EXPECT_NE(api.copy_out(handle, stream_, nullptr, x, 4), 0);
  EXPECT_NE(api.copy_in(handle, stream_, x + 4, &loose, 256), 0);
  EXPECT_TRUE(Says(api.error(handle), {"copy_in: to: 256 bytes at", "do not lie in an allocation"}));
  EXPECT_NE(api.copy_out(handle, stream_, &loose, 16, 4), 0);
  EXPECT_NE(api.clear(handle, stream_, x + 256, 1), 0);
  EXPECT_NE(api.set_scratch(handle, x + 4, 4), 0);
  EXPECT_NE(api.set_scratch(handle, x, 257), 0);
  EXPECT_EQ(api.set_scratch(handle, x, 256), 0);
  for (uint32_t* flag : {&loose, static_cast<uint32_t*>(nullptr)}) {
    EXPECT_NE(api.post(handle, stream_, flag), 0);
    EXPECT_NE(api.await(handle, stream_, flag), 0);
    EXPECT_NE(api.set_flag(handle, flag), 0);
    EXPECT_NE(api.wait_flag(handle, flag, 1), 0);
    EXPECT_TRUE(Says(api.error(handle), {"wait_flag: a flag at", "pinned memory"}));
  }
  EXPECT_NE(api.rms_norm(handle, stream_, nullptr), 0);
  EXPECT_NE(api.ffn(handle, 7, nullptr), 0);
  const FiddlerAttend attend = {};
  EXPECT_NE(api.attend(handle, stream_, &attend), 0);
  EXPECT_STREQ(api.error(handle), "attend: wrong");
  EXPECT_EQ(api.synchronize(handle, stream_), 0) << "a wrong call is not the end of the device";
}

TEST_F(CudaRuntimeTest, MemoryIsCappedAndGivenBack) {
  OpenDevice();
  {
    const DeviceBuffer all(*device_, 16 * kMiB, "all");
    EXPECT_TRUE(Says(ErrorOf([&] { DeviceBuffer(*device_, 1, "KV cache"); }),
                     {"Threads: KV cache: allocate: expected 1 B", "got 0 B of 16.0 MiB"}));
    EXPECT_EQ(device_->memory().used_bytes, 16 * kMiB);
  }
  EXPECT_EQ(device_->memory().used_bytes, 0u);
  EXPECT_EQ(device_->memory().peak_bytes, 16 * kMiB);
}

}  // namespace
}  // namespace fiddler
