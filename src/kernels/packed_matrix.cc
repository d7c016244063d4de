#include "kernels/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace fiddler {
namespace {

constexpr int64_t kQuad = 4;  // columns of one 32-bit word of int8

float ElementAt(DType dtype, const void* row, int64_t col) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(row)[col];
    case DType::kF16:
      return ToFloat(static_cast<const F16*>(row)[col]);
    case DType::kBF16:
      return ToFloat(static_cast<const BF16*>(row)[col]);
    default:
      CHECK(false, "weights of type {}", DTypeName(dtype));
  }
}

// Copies words of one row (one element, or a pair of 16 bits) to their lanes. Word by word in blocks that
// stay in L1: both sides are memory-bound long before the loop is.
template <typename Word>
void InterleaveRows(std::span<const void* const> rows, int64_t words, Word* panel) {
  constexpr int64_t kBlock = 16;
  for (int64_t begin = 0; begin < words; begin += kBlock) {
    const int64_t count = std::min(kBlock, words - begin);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const void* row = r < std::ssize(rows) ? rows[static_cast<size_t>(r)] : nullptr;
      Word* out = panel + begin * kPanelRows + r;
      if (row == nullptr) {
        for (int64_t i = 0; i < count; ++i) out[i * kPanelRows] = Word{};
      } else {
        Word block[kBlock];
        std::memcpy(block, static_cast<const Word*>(row) + begin, static_cast<size_t>(count) * sizeof(Word));
        for (int64_t i = 0; i < count; ++i) out[i * kPanelRows] = block[i];
      }
    }
  }
}

void PackBF16Pairs(std::span<const void* const> rows, int64_t cols, std::byte* panel) {
  InterleaveRows(rows, cols / 2, reinterpret_cast<uint32_t*>(panel));
  if (cols % 2 == 0) return;
  auto* last = reinterpret_cast<uint32_t*>(panel) + cols / 2 * kPanelRows;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const void* row = r < std::ssize(rows) ? rows[static_cast<size_t>(r)] : nullptr;
    last[r] = row == nullptr ? 0 : static_cast<const uint16_t*>(row)[cols - 1];
  }
}

// One row's values of one group, zeros past the last column.
template <int64_t kCols>
void LoadGroup(DType dtype, const void* row, int64_t first, int64_t cols, float (&values)[kCols]) {
  const int64_t count = row == nullptr ? 0 : std::min(kCols, cols - first);
  for (int64_t i = 0; i < count; ++i) values[i] = ElementAt(dtype, row, first + i);
  std::fill(values + count, values + kCols, 0.0F);
}

int RoundToRange(float value, int low, int high) {
  return std::clamp(static_cast<int>(std::lrintf(value)), low, high);
}

template <int64_t kCols>
float LargestMagnitude(const float (&values)[kCols]) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// The scale as it will be stored. Rounding it costs nothing: values are rounded to multiples of what is
// stored.
float StoredScale(float scale) { return ToFloat(ToBF16(scale)); }

void QuantizeGroupInt8(const float (&values)[64], BF16& scale, uint8_t (&q)[64]) {
  constexpr int kLargest = 127;
  scale = ToBF16(LargestMagnitude(values) / kLargest);
  const float stored = ToFloat(scale);
  const float inverse = stored > 0 ? 1 / stored : 0;
  for (int64_t i = 0; i < 64; ++i)
    q[i] = static_cast<uint8_t>(RoundToRange(values[i] * inverse, -kLargest, kLargest) + 128);
}

// The range is lopsided, [-8, 7], so the sign of the scale matters: the value of largest magnitude may use
// the 8. Of a few scales around that one, the one with the least squared error.
void QuantizeGroupInt4(const float (&values)[32], BF16& scale, uint8_t (&q)[32]) {
  const auto extreme = *std::max_element(std::begin(values), std::end(values),
                                         [](float a, float b) { return std::abs(a) < std::abs(b); });
  float best_scale = 0;
  float best_error = std::numeric_limits<float>::infinity();
  for (const float steps : {-8.0F, -7.5F, -7.0F, 7.5F, 8.0F}) {
    const float candidate = StoredScale(extreme / steps);
    const float inverse = candidate != 0 ? 1 / candidate : 0;
    float error = 0;
    for (const float value : values) {
      const float rest = value - candidate * static_cast<float>(RoundToRange(value * inverse, -8, 7));
      error += rest * rest;
    }
    if (error < best_error) {
      best_error = error;
      best_scale = candidate;
    }
  }
  scale = ToBF16(best_scale);
  const float inverse = best_scale != 0 ? 1 / best_scale : 0;
  for (int64_t i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(RoundToRange(values[i] * inverse, -8, 7) + 8);
}

void PackInt8(DType dtype, std::span<const void* const> rows, int64_t cols, std::byte* panel) {
  const auto [group_cols, group_bytes] = LayoutOf(WeightFormat::kInt8);
  for (int64_t first = 0; first < cols; first += group_cols, panel += group_bytes) {
    auto* scales = reinterpret_cast<BF16*>(panel);
    std::byte* quads = panel + kPanelRows * sizeof(BF16);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      float values[64];
      uint8_t q[64];
      LoadGroup(dtype, r < std::ssize(rows) ? rows[static_cast<size_t>(r)] : nullptr, first, cols, values);
      QuantizeGroupInt8(values, scales[r], q);
      for (int64_t i = 0; i < 16; ++i)
        std::memcpy(quads + (i * kPanelRows + r) * kQuad, q + i * kQuad, kQuad);
    }
  }
}

void PackInt4(DType dtype, std::span<const void* const> rows, int64_t cols, std::byte* panel) {
  const auto [group_cols, group_bytes] = LayoutOf(WeightFormat::kInt4);
  for (int64_t first = 0; first < cols; first += group_cols, panel += group_bytes) {
    auto* scales = reinterpret_cast<BF16*>(panel);
    auto* pairs = reinterpret_cast<uint8_t*>(panel + kPanelRows * sizeof(BF16));
    for (int64_t r = 0; r < kPanelRows; ++r) {
      float values[32];
      uint8_t q[32];
      LoadGroup(dtype, r < std::ssize(rows) ? rows[static_cast<size_t>(r)] : nullptr, first, cols, values);
      QuantizeGroupInt4(values, scales[r], q);
      for (int64_t pair = 0; pair < 4; ++pair) {
        for (int64_t i = 0; i < kQuad; ++i) {
          const uint8_t low = q[pair * 2 * kQuad + i];
          const uint8_t high = q[(pair * 2 + 1) * kQuad + i];
          pairs[(pair * kPanelRows + r) * kQuad + i] = static_cast<uint8_t>(low | high << 4);
        }
      }
    }
  }
}

// Any type to one that has no groups, element by element.
template <typename T, typename Convert>
void PackConverted(DType dtype, std::span<const void* const> rows, int64_t cols, int64_t padded, int64_t step,
                   T* panel, const Convert& convert) {
  for (int64_t c = 0; c < padded; ++c) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const void* row = r < std::ssize(rows) && c < cols ? rows[static_cast<size_t>(r)] : nullptr;
      panel[(c / step * kPanelRows + r) * step + c % step] =
          convert(row == nullptr ? 0.0F : ElementAt(dtype, row, c));
    }
  }
}

}  // namespace

std::string_view FormatName(WeightFormat format) {
  constexpr std::string_view kNames[] = {"f32", "f16", "bf16", "int8", "int4"};
  return kNames[static_cast<size_t>(format)];
}

WeightFormat FormatOf(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16, "weights of type {}",
        DTypeName(dtype));
  if (dtype == DType::kF32) return WeightFormat::kF32;
  return dtype == DType::kF16 ? WeightFormat::kF16 : WeightFormat::kBF16;
}

void PackPanel(WeightFormat format, DType dtype, std::span<const void* const> rows, int64_t cols,
               std::byte* panel) {
  CHECK(std::ssize(rows) <= kPanelRows, "{} rows", rows.size());
  switch (format) {
    case WeightFormat::kF32:
      if (dtype == DType::kF32) return InterleaveRows(rows, cols, reinterpret_cast<uint32_t*>(panel));
      return PackConverted(dtype, rows, cols, cols, 1, reinterpret_cast<float*>(panel),
                           [](float value) { return value; });
    case WeightFormat::kF16:
      if (dtype == DType::kF16) return InterleaveRows(rows, cols, reinterpret_cast<uint16_t*>(panel));
      return PackConverted(dtype, rows, cols, cols, 1, reinterpret_cast<F16*>(panel), ToF16);
    case WeightFormat::kBF16:
      if (dtype == DType::kBF16) return PackBF16Pairs(rows, cols, panel);
      return PackConverted(dtype, rows, cols, (cols + 1) / 2 * 2, 2, reinterpret_cast<BF16*>(panel), ToBF16);
    case WeightFormat::kInt8:
      return PackInt8(dtype, rows, cols, panel);
    case WeightFormat::kInt4:
      return PackInt4(dtype, rows, cols, panel);
  }
}

void UnpackRow(const PackedMatrix& matrix, int64_t row, float* out) {
  const std::byte* panel = matrix.Panel(row / kPanelRows);
  const int64_t lane = row % kPanelRows;
  const auto [group_cols, group_bytes] = LayoutOf(matrix.format);
  for (int64_t c = 0; c < matrix.cols; ++c) {
    const std::byte* group = panel + c / group_cols * group_bytes;
    const int64_t i = c % group_cols;
    const float scale = ToFloat(reinterpret_cast<const BF16*>(group)[lane]);  // of the int formats
    const auto* bytes = reinterpret_cast<const uint8_t*>(group + kPanelRows * sizeof(BF16));
    switch (matrix.format) {
      case WeightFormat::kF32:
        out[c] = reinterpret_cast<const float*>(group)[lane];
        break;
      case WeightFormat::kF16:
        out[c] = ToFloat(reinterpret_cast<const F16*>(group)[lane]);
        break;
      case WeightFormat::kBF16:
        out[c] = ToFloat(reinterpret_cast<const BF16*>(group)[lane * 2 + i]);
        break;
      case WeightFormat::kInt8:
        out[c] = scale * static_cast<float>(bytes[(i / 4 * kPanelRows + lane) * 4 + i % 4] - 128);
        break;
      case WeightFormat::kInt4: {
        const uint8_t pair = bytes[(i / 8 * kPanelRows + lane) * 4 + i % 4];
        out[c] = scale * static_cast<float>((i % 8 < 4 ? pair & 15 : pair >> 4) - 8);
        break;
      }
    }
  }
}

}  // namespace fiddler
