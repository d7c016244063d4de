// FFNs of the emulated device against their definition, in double.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/error_testing.h"
#include "device/emulated_testing.h"
#include "kernels/product_testing.h"

namespace fiddler {
namespace {

using testing::kModes;
using testing::Mode;
using testing::PackMatrix;
using testing::RandomFloats;
using testing::TestDevice;

constexpr int64_t kNeurons = 64;  // of a slice
constexpr int64_t kSlack = 256;   // bytes behind each slice

// Slices of random weights, packed and as the kernels see them.
struct Slices {
  Slices(WeightFormat format_, int64_t hidden_, int64_t count_, uint64_t seed)
      : format(format_), hidden(hidden_), count(count_) {
    for (int64_t s = 0; s < count; ++s) {
      const uint64_t slice_seed = seed + 2 * static_cast<uint64_t>(s);
      Append(PackMatrix(format, 2 * kNeurons, hidden, RandomFloats(2 * kNeurons * hidden, slice_seed)));
      Append(PackMatrix(format, hidden, kNeurons, RandomFloats(hidden * kNeurons, slice_seed + 1)));
      bytes.insert(bytes.end(), kSlack, std::byte{0xff});
    }
  }
  void Append(const std::vector<std::byte>& more) { bytes.insert(bytes.end(), more.begin(), more.end()); }
  int64_t slice_bytes() const { return std::ssize(bytes) / count; }

  // down(silu(gate x) * (up x)), [hidden].
  std::vector<double> Apply(const float* x) const {
    std::vector<double> y(static_cast<size_t>(hidden));
    for (int64_t s = 0; s < count; ++s) {
      const PackedMatrix gate_up = {
          .data = bytes.data() + s * slice_bytes(), .format = format, .rows = 2 * kNeurons, .cols = hidden};
      const PackedMatrix down = {
          .data = gate_up.data + gate_up.bytes(), .format = format, .rows = hidden, .cols = kNeurons};
      std::vector<float> row(static_cast<size_t>(hidden));
      const auto dot = [&](int64_t r) {
        UnpackRow(gate_up, r, row.data());
        return std::inner_product(row.begin(), row.end(), x, 0.0);
      };
      std::vector<double> h;
      for (int64_t n = 0; n < kNeurons; ++n) {
        const double gate = dot(n / 16 * 32 + n % 16);
        h.push_back(gate / (1 + std::exp(-gate)) * dot(n / 16 * 32 + 16 + n % 16));
      }
      std::vector<float> weights(kNeurons);
      for (int64_t r = 0; r < hidden; ++r) {
        UnpackRow(down, r, weights.data());
        y[static_cast<size_t>(r)] += std::inner_product(h.begin(), h.end(), weights.begin(), 0.0);
      }
    }
    return y;
  }

  WeightFormat format;
  int64_t hidden;
  int64_t count;
  std::vector<std::byte> bytes;
};

FiddlerFfn ArgsOf(const Slices& slices, Rounding rounding, FiddlerAddress x, FiddlerAddress out,
                  std::span<const FiddlerSlices> entries) {
  return {.hidden = slices.hidden,
          .slice_neurons = kNeurons,
          .slice_bytes = slices.slice_bytes(),
          .format = static_cast<int32_t>(slices.format),
          .rounding = static_cast<int32_t>(rounding),
          .x = x,
          .out = out,
          .entries = entries.data(),
          .num_entries = std::ssize(entries)};
}

// Three entries with the three kinds of weights: rows of its own and host weights, all rows with weights on
// the device, all rows with none.
TEST(EmulatedFfnTest, EntriesAddUp) {
  constexpr int64_t kTokens = 40;
  for (const testing::ProductKind kind : testing::ProductKinds()) {
    for (const int64_t hidden : {65, 600}) {
      const Slices slices(kind.format, hidden, 4, 10);
      const std::vector<float> x = RandomFloats(kTokens * hidden, 20);
      const std::vector<float> before = RandomFloats(kTokens * hidden, 21);
      const std::vector<float> weights = RandomFloats(kTokens, 22);
      TestDevice device(hidden == 65 ? Mode::kThreaded : Mode::kThreePool);
      const FiddlerAddress there = device.Put(slices.bytes);
      const FiddlerAddress out = device.Put(before);
      const auto slice_bytes = static_cast<uint64_t>(slices.slice_bytes());
      std::vector<int32_t> rows = {7, 39, 0, 7};
      std::vector<float> row_weights = {0.5f, -1, 2, 0.25f};
      std::vector<FiddlerSlices> entries = {{.slice = there,
                                             .num_slices = 4,
                                             .tokens = 4,
                                             .rows = rows.data(),
                                             .weights = row_weights.data(),
                                             .weights_on_device = 0},
                                            {.slice = there,
                                             .num_slices = 4,
                                             .tokens = kTokens,
                                             .rows = nullptr,
                                             .weights = nullptr,
                                             .weights_on_device = device.Put(weights)},
                                            {.slice = there,
                                             .num_slices = 4,
                                             .tokens = kTokens,
                                             .rows = nullptr,
                                             .weights = nullptr,
                                             .weights_on_device = 0},
                                            {.slice = 0,
                                             .num_slices = 1,
                                             .tokens = 0,
                                             .rows = nullptr,
                                             .weights = nullptr,
                                             .weights_on_device = 0}};
      device->Ffn(device.stream(), ArgsOf(slices, kind.rounding, device.Put(x), out, entries));
      // Host arrays were read by then.
      rows.assign(4, 1000);
      row_weights.assign(4, NAN);
      entries.clear();
      const std::vector<float> got = device.Get(out, kTokens * hidden);
      EXPECT_GT(slice_bytes, 0u);

      for (const int64_t t : {0, 1, 7, 39}) {
        const std::vector<double> y = slices.Apply(x.data() + t * hidden);
        const double factor = 1 + static_cast<double>(weights[static_cast<size_t>(t)]) +
                              (t == 0    ? 2
                               : t == 7  ? 0.75
                               : t == 39 ? -1
                                         : 0);
        double magnitude = 0;
        for (const double value : y) magnitude = std::max(magnitude, std::abs(value));
        // Rounded activations have 8 bits.
        const double tolerance =
            (kind.rounding == Rounding::kNone ? 1e-5 : 0.03) * (2 + std::abs(factor)) * magnitude;
        for (int64_t r = 0; r < hidden; ++r) {
          const auto i = static_cast<size_t>(t * hidden + r);
          ASSERT_NEAR(got[i], before[i] + factor * y[static_cast<size_t>(r)], tolerance)
              << FormatName(kind.format) << " token " << t << " row " << r;
        }
      }
    }
  }
}

// Slices given in pieces, in any mode: the same but for the order of additions; in one piece: the same bits.
TEST(EmulatedFfnTest, SlicesInPieces) {
  const Slices slices(WeightFormat::kBF16, 128, 6, 30);
  const std::vector<float> x = RandomFloats(3 * 128, 40);
  std::vector<float> whole;
  for (const Mode mode : kModes) {
    TestDevice device(mode);
    const FiddlerAddress there = device.Put(slices.bytes);
    const FiddlerAddress x_there = device.Put(x);
    const auto run = [&](std::vector<int64_t> pieces) {
      std::vector<FiddlerSlices> entries;
      int64_t first = 0;
      for (const int64_t count : pieces) {
        entries.push_back({.slice = there + static_cast<uint64_t>(first * slices.slice_bytes()),
                           .num_slices = count,
                           .tokens = 3,
                           .rows = nullptr,
                           .weights = nullptr,
                           .weights_on_device = 0});
        first += count;
      }
      const FiddlerAddress out = device.Room(3 * 128);
      device->Clear(device.stream(), out, 3 * 128 * 4);
      device->Ffn(device.stream(), ArgsOf(slices, Rounding::kBF16, x_there, out, entries));
      return device.Get(out, 3 * 128);
    };
    const std::vector<float> got = run({6});
    if (whole.empty()) whole = got;
    EXPECT_EQ(got, whole);
    const std::vector<float> in_pieces = run({1, 2, 3});
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(in_pieces[i], got[i], 1e-4);
  }
}

}  // namespace
}  // namespace fiddler
