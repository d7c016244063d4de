#include "experts/slice.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"

namespace fiddler {
namespace {

TEST(SliceTest, NeuronsOfPublishedShapes) {
  struct Shape {
    int64_t hidden, intermediate, bf16, int8, int4;
  };
  for (const Shape& shape : {Shape{4096, 14336, 128, 256, 512},  // 352 MB in bf16: 112 slices of 3 MiB
                             Shape{2048, 768, 128, 192, 192},    // 9.4 MB: 6 of 1.5 MiB; no fewer than 4
                             Shape{2048, 1024, 128, 256, 256},   // 12.6 MB: 8 of 1.5 MiB
                             Shape{2048, 1408, 128, 128, 128},   // 17.3 MB: 11 of 1.5 MiB
                             Shape{7168, 2048, 64, 128, 128},    // 88 MB: 32 of 2.6 MiB
                             Shape{16384, 6400, 64, 64, 128},    // never less than 64
                             Shape{256, 320, 64, 64, 64},        // 5, not 3 that would be padded
                             Shape{2048, 384, 64, 64, 64},       // 6, not 3
                             Shape{256, 576, 64, 64, 64},        // 9: 128 would be padded
                             Shape{64, 1, 64, 64, 64}}) {
    const auto neurons = [&](WeightFormat format) {
      return ChooseSliceNeurons(shape.hidden, shape.intermediate, format);
    };
    const std::string name = fmt::format("{} x {}", shape.hidden, shape.intermediate);
    EXPECT_EQ(neurons(WeightFormat::kBF16), shape.bf16) << name;
    EXPECT_EQ(neurons(WeightFormat::kF16), shape.bf16) << name;
    EXPECT_EQ(neurons(WeightFormat::kInt8), shape.int8) << name;
    EXPECT_EQ(neurons(WeightFormat::kInt4), shape.int4) << name;
  }
}

struct Ffn {
  int64_t hidden;
  int64_t intermediate;
  std::vector<float> gate;
  std::vector<float> up;
  std::vector<float> down;

  RowMajor Gate(int64_t first, int64_t rows) const {
    return {&gate[At(first, hidden)], DType::kF32, rows, hidden};
  }
  RowMajor Up(int64_t first, int64_t rows) const {
    return {&up[At(first, hidden)], DType::kF32, rows, hidden};
  }
  RowMajor Down(int64_t first, int64_t rows) const {
    return {&down[At(first, intermediate)], DType::kF32, rows, intermediate};
  }
  static size_t At(int64_t row, int64_t cols) { return static_cast<size_t>(row * cols); }
};

Ffn MakeFfn(int64_t hidden, int64_t intermediate) {
  Ffn ffn = {.hidden = hidden, .intermediate = intermediate, .gate = {}, .up = {}, .down = {}};
  Rng rng(static_cast<uint64_t>(hidden * 10007 + intermediate));
  for (std::vector<float>* matrix : {&ffn.gate, &ffn.up, &ffn.down}) {
    for (int64_t i = 0; i < hidden * intermediate; ++i) {
      matrix->push_back(static_cast<float>(rng.NextBits() >> 40) * 0x1p-23F - 1);
    }
  }
  return ffn;
}

SlicedFfn Geometry(const Ffn& ffn, WeightFormat format, int64_t slice_neurons) {
  return {.data = nullptr,
          .format = format,
          .hidden = ffn.hidden,
          .intermediate = ffn.intermediate,
          .slice_neurons = slice_neurons};
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

// y = down (silu(gate x) * (up x)) from the rows as they were.
std::vector<double> Reference(const Ffn& ffn, const std::vector<float>& x) {
  std::vector<double> y(static_cast<size_t>(ffn.hidden));
  for (int64_t n = 0; n < ffn.intermediate; ++n) {
    double gate = 0;
    double up = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      gate += double{ffn.gate[Ffn::At(n, ffn.hidden) + k]} * x[k];
      up += double{ffn.up[Ffn::At(n, ffn.hidden) + k]} * x[k];
    }
    for (size_t r = 0; r < y.size(); ++r) {
      y[r] += Silu(gate) * up * ffn.down[r * static_cast<size_t>(ffn.intermediate) + static_cast<size_t>(n)];
    }
  }
  return y;
}

double Dot(const PackedMatrix& matrix, int64_t row, const std::vector<double>& x) {
  std::vector<float> weights(static_cast<size_t>(matrix.cols));
  UnpackRow(matrix, row, weights.data());
  double sum = 0;
  for (size_t k = 0; k < x.size(); ++k) sum += weights[k] * x[k];
  return sum;
}

// The same from the slices, padded neurons included, the way kernels read them.
std::vector<double> FromSlices(const SlicedFfn& ffn, const std::vector<float>& x) {
  const std::vector<double> input(x.begin(), x.end());
  std::vector<double> y(static_cast<size_t>(ffn.hidden));
  for (int64_t s = 0; s < ffn.num_slices(); ++s) {
    std::vector<double> h;
    for (int64_t n = 0; n < ffn.slice_neurons; ++n) {
      const int64_t gate_row = n / 16 * 32 + n % 16;
      h.push_back(Silu(Dot(ffn.GateUp(s), gate_row, input)) * Dot(ffn.GateUp(s), gate_row + 16, input));
    }
    for (int64_t r = 0; r < ffn.hidden; ++r) y[static_cast<size_t>(r)] += Dot(ffn.Down(s), r, h);
  }
  return y;
}

TEST(SliceTest, SlicesAddUpToTheFfn) {
  for (const WeightFormat format : kWeightFormats) {
    for (const auto& [hidden, intermediate, neurons] : {std::tuple{64, 128, 64},
                                                        {40, 200, 64},
                                                        {33, 65, 64},
                                                        {96, 320, 128},
                                                        {50, 129, 128},
                                                        {31, 95, 64}}) {
      const Ffn ffn = MakeFfn(hidden, intermediate);
      SlicedFfn sliced = Geometry(ffn, format, neurons);
      std::vector<uint64_t> memory(sliced.bytes() / 8, ~uint64_t{0});  // padding is written too
      sliced.data = reinterpret_cast<std::byte*>(memory.data());
      PackFfn(sliced, ffn.Gate(0, intermediate), ffn.Up(0, intermediate), ffn.Down(0, hidden),
              reinterpret_cast<std::byte*>(memory.data()));

      std::vector<float> x;
      for (int k = 0; k < hidden; ++k) x.push_back(std::sin(static_cast<float>(k) + 0.5F) * 0.3F);
      const std::vector<double> want = Reference(ffn, x);
      const std::vector<double> got = FromSlices(sliced, x);
      double error = 0;
      double total = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        total += want[i] * want[i];
      }
      // Uniform weights: noise of 0.4% (int8) and 6% (int4) on each of three matrices
      // (packed_matrix_test.cc), of which the products keep the ratio; float formats hold them to their own
      // rounding.
      const double bound = format == WeightFormat::kF32    ? 1e-12
                           : format == WeightFormat::kF16  ? 1e-3
                           : format == WeightFormat::kBF16 ? 8e-3
                           : format == WeightFormat::kInt8 ? 0.015
                                                           : 0.25;
      EXPECT_LT(std::sqrt(error / total), bound)
          << FormatName(format) << " " << hidden << " x " << intermediate << " / " << neurons;
    }
  }
}

TEST(SliceTest, PiecesInAnyOrderAreTheWhole) {
  const Ffn ffn = MakeFfn(100, 330);
  for (const WeightFormat format : kWeightFormats) {
    const SlicedFfn sliced = Geometry(ffn, format, 128);
    std::vector<uint64_t> whole(sliced.bytes() / 8, 1);
    std::vector<uint64_t> pieces(sliced.bytes() / 8, 2);
    PackFfn(sliced, ffn.Gate(0, 330), ffn.Up(0, 330), ffn.Down(0, 100),
            reinterpret_cast<std::byte*>(whole.data()));
    auto* out = reinterpret_cast<std::byte*>(pieces.data());
    for (int64_t first : {96, 64, 0, 32}) {
      PackDown(sliced, first, ffn.Down(first, std::min<int64_t>(32, 100 - first)), out);
    }
    for (int64_t first = 320; first >= 0; first -= 16) {
      const int64_t rows = std::min<int64_t>(16, 330 - first);
      PackGateUp(sliced, first, ffn.Gate(first, rows), ffn.Up(first, rows), out);
    }
    EXPECT_EQ(whole, pieces) << FormatName(format);
  }
}

TEST(SliceTest, EverySliceHasTheSameSize) {
  for (const WeightFormat format : kWeightFormats) {
    const SlicedFfn ffn = {
        .data = nullptr, .format = format, .hidden = 4096, .intermediate = 14336, .slice_neurons = 128};
    EXPECT_EQ(ffn.num_slices(), 112);
    EXPECT_EQ(ffn.slice_bytes() % 64, 0);
    EXPECT_EQ(ffn.bytes(), static_cast<size_t>(112 * ffn.slice_bytes()));
  }
  const SlicedFfn none;
  EXPECT_EQ(none.bytes(), 0u);
}

}  // namespace
}  // namespace fiddler
