// For tests: an emulated device with arrays on it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "base/topology.h"
#include "device/cuda_testing.h"
#include "kernels/dispatch.h"

namespace fiddler::testing {

inline std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.NextUnit() * 2 - 1);
  return values;
}

// The weights in a format, packed; [rows, cols] of floats.
inline std::vector<std::byte> PackMatrix(WeightFormat format, int64_t rows, int64_t cols,
                                         const std::vector<float>& values) {
  const PackedMatrix shape = {.data = nullptr, .format = format, .rows = rows, .cols = cols};
  std::vector<std::byte> packed(shape.bytes());
  for (int64_t panel = 0; panel < shape.num_panels(); ++panel) {
    std::vector<const void*> sources;
    for (int64_t r = panel * kPanelRows; r < std::min(rows, (panel + 1) * kPanelRows); ++r) {
      sources.push_back(values.data() + r * cols);
    }
    PackPanel(format, DType::kF32, sources, cols, packed.data() + panel * shape.panel_bytes());
  }
  return packed;
}

// Bytes on a cache line, as kernels want what is packed.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes) : lines_(static_cast<size_t>(bytes + 63) / 64) {}
  explicit AlignedBytes(const std::vector<std::byte>& bytes) : AlignedBytes(std::ssize(bytes)) {
    std::copy(bytes.begin(), bytes.end(), data());
  }
  std::byte* data() { return reinterpret_cast<std::byte*>(lines_.data()); }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

enum class Mode { kOneThread, kThreePool, kThreaded };
inline constexpr Mode kModes[] = {Mode::kOneThread, Mode::kThreePool, Mode::kThreaded};

// A device and what a test has put there.
class TestDevice {
 public:
  static constexpr uint64_t kMemoryBytes = 64 << 20;

  explicit TestDevice(Mode mode = Mode::kOneThread, EmulatorOptions options = {},
                      const CpuKernels& kernels = BestKernels()) {
    static const Topology topology = DiscoverTopology();
    if (mode != Mode::kThreaded) pool_.emplace(mode == Mode::kOneThread ? 1 : 3, topology);
    options.pool = pool_ ? &*pool_ : nullptr;
    if (options.memory_bytes == 0) options.memory_bytes = kMemoryBytes;
    device_ = OpenTestDevice(options, kernels);
    stream_ = device_->CreateStream();
  }
  explicit TestDevice(std::unique_ptr<Device> device)
      : device_(std::move(device)), stream_(device_->CreateStream()) {}

  Device& operator*() const { return *device_; }
  Device* operator->() const { return device_.get(); }
  FiddlerStream stream() const { return stream_; }

  // An array on the device, the end of which is the end of its allocation.
  template <typename T>
  FiddlerAddress Put(const std::vector<T>& values) {
    const FiddlerAddress address = Room<T>(std::ssize(values));
    device_->CopyIn(stream_, address, values.data(), values.size() * sizeof(T));
    device_->Synchronize(stream_);
    return address;
  }
  template <typename T = float>
  FiddlerAddress Room(int64_t count) {
    buffers_.emplace_back(*device_, static_cast<uint64_t>(count) * sizeof(T), "test");
    return buffers_.back().address();
  }
  template <typename T = float>
  std::vector<T> Get(FiddlerAddress address, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    device_->CopyOut(stream_, values.data(), address, values.size() * sizeof(T));
    device_->Synchronize(stream_);
    return values;
  }

 private:
  std::optional<ThreadPool> pool_;  // outlives the device
  std::unique_ptr<Device> device_;
  FiddlerStream stream_ = 0;
  std::vector<DeviceBuffer> buffers_;
};

// That the text has all these parts.
inline ::testing::AssertionResult Says(std::string_view text, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    if (text.find(part) == text.npos)
      return ::testing::AssertionFailure() << text << "\ndoes not say\n" << part;
  }
  return ::testing::AssertionSuccess();
}

// Room for flags, set to 0.
inline PinnedBuffer Flags(Device& device, int count) {
  PinnedBuffer flags(device, static_cast<uint64_t>(count) * sizeof(uint32_t), "flags");
  std::fill_n(flags.as<uint32_t>(), count, 0u);
  return flags;
}

inline bool AllNaN(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isnan(value); });
}
inline bool AnyNaN(const std::vector<float>& values) {
  return std::any_of(values.begin(), values.end(), [](float value) { return std::isnan(value); });
}

}  // namespace fiddler::testing
