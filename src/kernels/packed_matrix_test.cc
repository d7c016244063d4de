#include "kernels/packed_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace fiddler {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

float Gaussian(Rng& rng) {  // near enough: mean 0, deviation 1
  float sum = 0;
  for (int i = 0; i < 12; ++i) sum += static_cast<float>(rng.NextBits() >> 40) * 0x1p-24F;
  return sum - 6;
}

// A row-major matrix of some type, and its values.
struct Source {
  DType dtype;
  int64_t rows;
  int64_t cols;
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

Source MakeSource(DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
  Source source = {.dtype = dtype, .rows = rows, .cols = cols, .bytes = {}, .values = {}};
  const size_t size = DTypeBytes(dtype);
  source.bytes.resize(static_cast<size_t>(rows * cols) * size);
  Rng rng(seed);
  for (size_t i = 0; i < static_cast<size_t>(rows * cols); ++i) {
    float value = Gaussian(rng);
    if (dtype == DType::kF32) std::memcpy(&source.bytes[i * size], &value, size);
    if (dtype == DType::kF16) {
      const F16 half = ToF16(value);
      std::memcpy(&source.bytes[i * size], &half, size);
      value = ToFloat(half);
    }
    if (dtype == DType::kBF16) {
      const BF16 half = ToBF16(value);
      std::memcpy(&source.bytes[i * size], &half, size);
      value = ToFloat(half);
    }
    source.values.push_back(value);
  }
  return source;
}

struct Packed {
  std::vector<uint64_t> memory;  // aligned well enough for the scalar code here
  PackedMatrix matrix;
};

Packed Pack(const Source& source, WeightFormat format) {
  Packed packed;
  packed.matrix = {.data = nullptr, .format = format, .rows = source.rows, .cols = source.cols};
  packed.memory.assign(packed.matrix.bytes() / 8, 0xababababababababu);  // whatever was there is overwritten
  auto* data = reinterpret_cast<std::byte*>(packed.memory.data());
  packed.matrix.data = data;
  const size_t row_bytes = static_cast<size_t>(source.cols) * DTypeBytes(source.dtype);
  for (int64_t panel = 0; panel < packed.matrix.num_panels(); ++panel) {
    std::vector<const void*> rows;
    for (int64_t r = panel * kPanelRows; r < std::min((panel + 1) * kPanelRows, source.rows); ++r) {
      rows.push_back(source.bytes.data() + static_cast<size_t>(r) * row_bytes);
    }
    PackPanel(format, source.dtype, rows, source.cols, data + panel * packed.matrix.panel_bytes());
  }
  return packed;
}

std::vector<float> Unpack(const PackedMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) UnpackRow(matrix, r, values.data() + r * matrix.cols);
  return values;
}

TEST(PackedMatrix, PanelsAreWholeCacheLines) {
  for (const WeightFormat format : kWeightFormats) {
    EXPECT_EQ(LayoutOf(format).bytes % 64, 0) << FormatName(format);
    const PackedMatrix matrix = {.data = nullptr, .format = format, .rows = 33, .cols = 65};
    EXPECT_EQ(matrix.num_panels(), 2);
    EXPECT_EQ(matrix.bytes(), static_cast<size_t>(2 * matrix.panel_bytes()));
  }
}

TEST(PackedMatrix, FormatsThatHoldTheTypeAreExact) {
  for (const DType dtype : kTypes) {
    for (const int64_t rows : {1, 31, 32, 33, 70}) {
      for (const int64_t cols : {1, 2, 3, 31, 64, 65, 255}) {
        const Source source = MakeSource(dtype, rows, cols, static_cast<uint64_t>(rows * 1000 + cols));
        EXPECT_EQ(Unpack(Pack(source, FormatOf(dtype)).matrix), source.values) << rows << " x " << cols;
        EXPECT_EQ(Unpack(Pack(source, WeightFormat::kF32).matrix), source.values);
      }
    }
  }
}

TEST(PackedMatrix, SixteenBitFormatsRoundToNearest) {
  const Source source = MakeSource(DType::kF32, 33, 67, 5);
  const std::vector<float> bf16 = Unpack(Pack(source, WeightFormat::kBF16).matrix);
  const std::vector<float> f16 = Unpack(Pack(source, WeightFormat::kF16).matrix);
  for (size_t i = 0; i < source.values.size(); ++i) {
    EXPECT_EQ(bf16[i], ToFloat(ToBF16(source.values[i])));
    EXPECT_EQ(f16[i], ToFloat(ToF16(source.values[i])));
  }
}

// The bytes themselves, as packed_matrix.h draws them: the kernels rely on them.
TEST(PackedMatrix, BytesLieAsDocumented) {
  const Source source = MakeSource(DType::kBF16, 40, 70, 6);
  const auto value = [&](int64_t row, int64_t col) {
    return row < 40 && col < 70 ? source.values[static_cast<size_t>(row * 70 + col)] : 0.0F;
  };
  for (const WeightFormat format : kWeightFormats) {
    const Packed packed = Pack(source, format);
    const PackedMatrix& matrix = packed.matrix;
    const GroupLayout layout = LayoutOf(format);
    for (int64_t row = 0; row < 64; ++row) {
      for (int64_t col = 0; col < matrix.num_groups() * layout.cols; ++col) {
        const std::byte* group = matrix.Panel(row / 32) + col / layout.cols * layout.bytes;
        const int64_t lane = row % 32;
        const int64_t i = col % layout.cols;
        const auto* quads = reinterpret_cast<const uint8_t*>(group + 64);
        const float scale = ToFloat(reinterpret_cast<const BF16*>(group)[lane]);
        float got = 0;
        float bound = 0;
        if (format == WeightFormat::kF32) got = reinterpret_cast<const float*>(group)[lane];
        if (format == WeightFormat::kF16) got = ToFloat(reinterpret_cast<const F16*>(group)[lane]);
        if (format == WeightFormat::kBF16) got = ToFloat(reinterpret_cast<const BF16*>(group)[lane * 2 + i]);
        if (format == WeightFormat::kInt8) {
          got = scale * static_cast<float>(quads[i / 4 * 128 + lane * 4 + i % 4] - 128);
          bound = std::abs(scale) * 0.501F;  // rounding; the product is itself rounded
        }
        if (format == WeightFormat::kInt4) {
          const uint8_t both = quads[i / 8 * 128 + lane * 4 + i % 4];
          got = scale * static_cast<float>((i % 8 < 4 ? both & 15 : both >> 4) - 8);
          bound = std::abs(scale) * 1.001F;  // the extreme value may be cut by up to a whole step
        }
        ASSERT_NEAR(got, value(row, col), bound) << FormatName(format) << " " << row << " " << col;
        if (row < 40 && col < 70) {
          std::vector<float> unpacked(70);
          if (col == 0) {
            UnpackRow(matrix, row, unpacked.data());
            EXPECT_NEAR(unpacked[0], value(row, 0), bound);
          }
        }
      }
    }
  }
}

TEST(PackedMatrix, ZerosStayZerosAndOneValueStaysItself) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    Source source = MakeSource(DType::kF32, 2, 128, 7);
    std::ranges::fill(source.values, 0.0F);
    source.values[128 + 5] = -0.75F;  // a group with one value
    std::memcpy(source.bytes.data(), source.values.data(), source.bytes.size());
    const std::vector<float> got = Unpack(Pack(source, format).matrix);
    for (size_t i = 0; i < got.size(); ++i) {
      // The scale is a BF16: 8 bits of significand, so half a step of it at most is lost.
      EXPECT_NEAR(got[i], source.values[i], i == 128 + 5 ? 0.75F / 256 : 0.0F) << FormatName(format);
    }
  }
}

// A group that no scale can hold says so; one too small for its scale to be inverted is zeros.
TEST(PackedMatrix, GroupsOfOddValues) {
  struct Case {
    float value;
    float others;
  };
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const auto group = static_cast<size_t>(LayoutOf(format).cols);
    for (const auto& [value, others] : {Case{kNan, 0.5F},
                                        {kInf, 0.5F},
                                        {-kInf, 0.5F},
                                        {1e-38F, 1e-38F},
                                        {1e-40F, 0},
                                        {1e30F, 0.5F},
                                        {-3e38F, 1e38F}}) {
      Source source = MakeSource(DType::kF32, 1, 128, 12);
      std::fill_n(source.values.begin() + static_cast<int64_t>(group), group, others);
      source.values[group + 5] = value;
      std::memcpy(source.bytes.data(), source.values.data(), source.bytes.size());
      const std::vector<float> got = Unpack(Pack(source, format).matrix);
      for (size_t i = 0; i < got.size(); ++i) {
        SCOPED_TRACE(testing::Message() << FormatName(format) << " " << value << " at " << i);
        const bool affected = i / group == 1;
        const float largest = affected ? std::max(std::abs(value), std::abs(others)) : 4.0F;
        if (affected && !std::isfinite(value)) {
          EXPECT_TRUE(std::isnan(got[i]));
        } else if (affected && largest < 0x1p-100F) {
          EXPECT_EQ(got[i], 0);
        } else {
          ASSERT_TRUE(std::isfinite(got[i]));
          EXPECT_LE(std::abs(got[i] - source.values[i]),
                    largest * (format == WeightFormat::kInt8 ? 1.01F / 254 : 0.13F));
        }
      }
    }
  }
}

double RelativeRms(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0;
  double total = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
    total += double{want[i]} * want[i];
  }
  return std::sqrt(error / total);
}

// Noise of rounding to multiples of s is uniform, of deviation s / sqrt(12). In units of the deviation of
// Gaussian weights: of 64 the largest magnitude is 2.6 on average (mean of its square about 6.9), so that
// int8 has s = 2.63 / 127 and noise 0.0060; of 32 it is 2.4 (square 5.6), so that int4 has s = 2.37 / 8 and
// noise 0.086 if the scale were fixed; choosing among scales only lowers it. Uniform weights (what
// DummyWeights makes) have a largest magnitude of sqrt(3): 0.0039 and 0.062.
TEST(PackedMatrix, QuantizationNoiseIsWhatTheStepSizeSays) {
  const Source gaussian = MakeSource(DType::kBF16, 256, 512, 8);
  EXPECT_NEAR(RelativeRms(Unpack(Pack(gaussian, WeightFormat::kInt8).matrix), gaussian.values), 0.0060,
              0.0004);
  const double int4 = RelativeRms(Unpack(Pack(gaussian, WeightFormat::kInt4).matrix), gaussian.values);
  EXPECT_LT(int4, 0.086);
  EXPECT_GT(int4, 0.070);

  Source uniform = MakeSource(DType::kF32, 256, 512, 9);
  Rng rng(10);
  for (float& value : uniform.values) value = static_cast<float>(rng.NextBits() >> 40) * 0x1p-23F - 1;
  std::memcpy(uniform.bytes.data(), uniform.values.data(), uniform.bytes.size());
  EXPECT_NEAR(RelativeRms(Unpack(Pack(uniform, WeightFormat::kInt8).matrix), uniform.values), 0.0039, 0.0003);
  EXPECT_NEAR(RelativeRms(Unpack(Pack(uniform, WeightFormat::kInt4).matrix), uniform.values), 0.062, 0.005);
}

TEST(PackedMatrix, NullRowsAreZeros) {
  const Source source = MakeSource(DType::kBF16, 2, 66, 11);
  for (const WeightFormat format : kWeightFormats) {
    PackedMatrix matrix = {.data = nullptr, .format = format, .rows = 3, .cols = 66};
    std::vector<uint64_t> memory(matrix.bytes() / 8, ~uint64_t{0});
    matrix.data = reinterpret_cast<std::byte*>(memory.data());
    const void* rows[] = {source.bytes.data(), nullptr, source.bytes.data() + 132};
    PackPanel(format, DType::kBF16, rows, 66, reinterpret_cast<std::byte*>(memory.data()));
    const std::vector<float> got = Unpack(matrix);
    EXPECT_TRUE(std::all_of(got.begin() + 66, got.begin() + 132, [](float x) { return x == 0; }));
    EXPECT_FALSE(std::all_of(got.begin() + 132, got.end(), [](float x) { return x == 0; }));
  }
}

}  // namespace
}  // namespace fiddler
