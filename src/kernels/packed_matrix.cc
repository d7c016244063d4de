#include "kernels/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace fiddler {
namespace {

// Copies words of one row (one element, or a pair of 16 bits) to their lanes. Word by word in blocks that
// stay in L1: both sides are memory-bound long before the loop is.
template <typename Word>
void InterleaveRows(std::span<const void* const> rows, int64_t words, Word* panel) {
  constexpr int64_t kBlock = 16;
  for (int64_t begin = 0; begin < words; begin += kBlock) {
    const int64_t count = std::min(kBlock, words - begin);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const auto* row =
          r < std::ssize(rows) ? static_cast<const std::byte*>(rows[static_cast<size_t>(r)]) : nullptr;
      Word* out = panel + begin * kPanelRows + r;
      Word block[kBlock] = {};
      if (row != nullptr) {
        std::memcpy(block, row + begin * static_cast<int64_t>(sizeof(Word)),
                    static_cast<size_t>(count) * sizeof(Word));
      }
      for (int64_t i = 0; i < count; ++i) out[i * kPanelRows] = block[i];
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

// What changes its type goes through blocks of 64 columns of floats, the rows in lanes as in a panel. Every
// step is then the same operation on all lanes, which compilers turn into vectors of any width.
constexpr int64_t kBlockCols = 64;
struct Block {
  alignas(64) float values[kBlockCols][kPanelRows];
};

inline float FloatOf(F16 half) {  // ToFloat without branches: a subnormal float is scaled like any other
  const uint32_t bits = half.bits;
  const float magnitude = std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112F;
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special | (bits & 0x8000u) << 16);
}
inline float FloatOf(BF16 half) { return ToFloat(half); }
inline float FloatOf(float value) { return value; }

// Columns [first, first + kBlockCols), zeros past the last one.
template <typename T>
[[gnu::always_inline]] inline void LoadBlock(std::span<const void* const> rows, int64_t first, int64_t cols,
                                             Block& block) {
  const auto count = static_cast<size_t>(std::min(kBlockCols, cols - first));
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const void* row = r < std::ssize(rows) ? rows[static_cast<size_t>(r)] : nullptr;
    T elements[kBlockCols] = {};
    if (row != nullptr) std::memcpy(elements, static_cast<const T*>(row) + first, count * sizeof(T));
    float floats[kBlockCols];
    for (int64_t i = 0; i < kBlockCols; ++i) floats[i] = FloatOf(elements[i]);
    for (int64_t i = 0; i < kBlockCols; ++i) block.values[i][r] = floats[i];
  }
}

[[gnu::always_inline]] inline void LoadBlock(DType dtype, std::span<const void* const> rows, int64_t first,
                                             int64_t cols, Block& block) {
  switch (dtype) {
    case DType::kF32:
      return LoadBlock<float>(rows, first, cols, block);
    case DType::kF16:
      return LoadBlock<F16>(rows, first, cols, block);
    case DType::kBF16:
      return LoadBlock<BF16>(rows, first, cols, block);
    default:
      CHECK(false, "weights of type {}", DTypeName(dtype));
  }
}

// To the nearest integer, ties to even, by letting the addition do it; |value| < 2^22. A NaN becomes `low`.
[[gnu::always_inline]] inline float RoundInRange(float value, float low, float high) {
  constexpr float kMagic = 0x1.8p23F;
  const float rounded = (value + kMagic) - kMagic;
  const float above = rounded > low ? rounded : low;
  return above > high ? high : above;
}

struct Lanes {
  alignas(64) float values[kPanelRows];
};

// The scale as it will be stored. Rounding it costs nothing: values are rounded to multiples of what is
// stored.
[[gnu::always_inline]] inline float StoredScale(float scale) {
  const uint32_t bits = std::bit_cast<uint32_t>(scale);  // ToBF16 without its branch for NaN
  return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

// `yes` or `no`, in a form that stays free of branches.
[[gnu::always_inline]] inline float Select(bool condition, float yes, float no) {
  const uint32_t mask = condition ? ~0u : 0u;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(yes) & mask) | (std::bit_cast<uint32_t>(no) & ~mask));
}

[[gnu::always_inline]] inline Lanes StoreScales(const Lanes& scales, std::byte* group) {
  Lanes inverse;
  uint16_t bits[kPanelRows];
  for (int64_t r = 0; r < kPanelRows; ++r) {
    bits[r] = static_cast<uint16_t>(std::bit_cast<uint32_t>(scales.values[r]) >> 16);
    inverse.values[r] = scales.values[r] != 0 ? 1 / scales.values[r] : 0;
  }
  std::memcpy(group, bits, sizeof(bits));
  return inverse;
}

// Of each row, as unsigned numbers: those of infinities and NaNs are the largest.
struct LargestBits {
  uint32_t bits[kPanelRows];
};

template <int64_t kCols>
[[gnu::always_inline]] inline LargestBits LargestMagnitudes(const float (*values)[kPanelRows]) {
  LargestBits largest = {};
  for (int64_t i = 0; i < kCols; ++i) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const uint32_t bits = std::bit_cast<uint32_t>(values[i][r]) & 0x7fffffffu;
      largest.bits[r] = bits > largest.bits[r] ? bits : largest.bits[r];
    }
  }
  return largest;
}

// `scale`, but NaN for a group with an infinity or a NaN, which so comes out in every product, and 0 for one
// whose scale would have no inverse.
[[gnu::always_inline]] inline float ScaleOf(uint32_t largest_bits, float scale) {
  const float small = Select(std::bit_cast<float>(largest_bits) < 0x1p-100F, 0.0F, scale);
  return Select(largest_bits >= 0x7f800000u, std::numeric_limits<float>::quiet_NaN(), small);
}

[[gnu::always_inline]] inline void QuantizeInt8(const float (*values)[kPanelRows], std::byte* group) {
  constexpr float kLargest = 127;
  const LargestBits largest = LargestMagnitudes<64>(values);
  Lanes scales;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const float scale = StoredScale(std::bit_cast<float>(largest.bits[r]) / kLargest);
    scales.values[r] = ScaleOf(largest.bits[r], scale);
  }
  const Lanes inverse = StoreScales(scales, group);
  std::byte* words = group + kPanelRows * sizeof(BF16);
  for (int64_t quad = 0; quad < 16; ++quad) {
    uint32_t packed[kPanelRows] = {};
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const float q = RoundInRange(values[quad * 4 + i][r] * inverse.values[r], -kLargest, kLargest);
        packed[r] |= static_cast<uint32_t>(static_cast<int32_t>(q) + 128) << (8 * i);
      }
    }
    std::memcpy(words + quad * static_cast<int64_t>(sizeof(packed)), packed, sizeof(packed));
  }
}

// The range is lopsided, [-8, 7], so the sign of the scale matters: the value of largest magnitude may use
// the 8. Of a few scales around that one, the one with the least squared error.
[[gnu::always_inline]] inline void QuantizeInt4(const float (*values)[kPanelRows], std::byte* group) {
  Lanes extreme = {};
  for (int64_t i = 0; i < 32; ++i) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const float value = values[i][r];
      extreme.values[r] = std::abs(value) > std::abs(extreme.values[r]) ? value : extreme.values[r];
    }
  }
  const LargestBits largest = LargestMagnitudes<32>(values);
  Lanes best;
  for (int64_t r = 0; r < kPanelRows; ++r) best.values[r] = StoredScale(extreme.values[r] / -8);
  Lanes best_error;
  for (float& error : best_error.values) error = std::numeric_limits<float>::infinity();
  for (const float steps : {-8.0F, -7.5F, -7.0F, 7.5F, 8.0F}) {
    Lanes scale;
    Lanes inverse;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      scale.values[r] = StoredScale(extreme.values[r] / steps);
      inverse.values[r] = scale.values[r] != 0 ? 1 / scale.values[r] : 0;
    }
    Lanes error = {};
    for (int64_t i = 0; i < 32; ++i) {
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const float q = RoundInRange(values[i][r] * inverse.values[r], -8, 7);
        const float rest = values[i][r] - scale.values[r] * q;
        error.values[r] += rest * rest;
      }
    }
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const bool better = error.values[r] < best_error.values[r];
      best.values[r] = Select(better, scale.values[r], best.values[r]);
      best_error.values[r] = Select(better, error.values[r], best_error.values[r]);
    }
  }
  for (int64_t r = 0; r < kPanelRows; ++r) best.values[r] = ScaleOf(largest.bits[r], best.values[r]);
  const Lanes inverse = StoreScales(best, group);
  std::byte* words = group + kPanelRows * sizeof(BF16);
  for (int64_t pair = 0; pair < 4; ++pair) {
    uint32_t packed[kPanelRows] = {};
    for (int64_t i = 0; i < 4; ++i) {
      const float* first_quad = values[pair * 8 + i];
      const float* second_quad = values[pair * 8 + 4 + i];
      for (int64_t r = 0; r < kPanelRows; ++r) {
        const float low = RoundInRange(first_quad[r] * inverse.values[r], -8, 7);
        const float high = RoundInRange(second_quad[r] * inverse.values[r], -8, 7);
        const int32_t both = (static_cast<int32_t>(low) + 8) | (static_cast<int32_t>(high) + 8) << 4;
        packed[r] |= static_cast<uint32_t>(both) << (8 * i);
      }
    }
    std::memcpy(words + pair * static_cast<int64_t>(sizeof(packed)), packed, sizeof(packed));
  }
}

// Columns [first, ..) of a block, as the groups of a panel.
[[gnu::always_inline]] inline void StoreBlock(WeightFormat format, const Block& block, int64_t first,
                                              int64_t cols, std::byte* panel) {
  const GroupLayout layout = LayoutOf(format);
  const int64_t count = std::min(kBlockCols, cols - first);
  for (int64_t i = 0; i < count; i += layout.cols) {
    std::byte* group = panel + (first + i) / layout.cols * layout.bytes;
    const float(*values)[kPanelRows] = block.values + i;
    switch (format) {
      case WeightFormat::kF32:
        std::memcpy(group, values, sizeof(*values));
        break;
      case WeightFormat::kF16:
        for (int64_t r = 0; r < kPanelRows; ++r) reinterpret_cast<F16*>(group)[r] = ToF16(values[0][r]);
        break;
      case WeightFormat::kBF16:
        for (int64_t r = 0; r < kPanelRows; ++r) {
          reinterpret_cast<BF16*>(group)[2 * r] = ToBF16(values[0][r]);
          reinterpret_cast<BF16*>(group)[2 * r + 1] = ToBF16(values[1][r]);
        }
        break;
      case WeightFormat::kInt8:
        QuantizeInt8(values, group);
        break;
      case WeightFormat::kInt4:
        QuantizeInt4(values, group);
        break;
    }
  }
}

[[gnu::always_inline]] inline void ConvertPanel(WeightFormat format, DType dtype,
                                                std::span<const void* const> rows, int64_t cols,
                                                std::byte* panel) {
  Block block;
  for (int64_t first = 0; first < cols; first += kBlockCols) {
    LoadBlock(dtype, rows, first, cols, block);
    StoreBlock(format, block, first, cols, panel);
  }
}

// The same for the widest vectors there are; the bytes are the same. On a Zen 5 core, GB/s of BF16 read for
// int8 and int4: SSE2 1.7 and 0.2, AVX2 2.0 and 0.4, AVX-512 4.1 and 1.1.
#if defined(__x86_64__)
[[gnu::target("avx512f,avx512vl,avx512bw,avx512dq")]] void ConvertPanelAvx512(
    WeightFormat format, DType dtype, std::span<const void* const> rows, int64_t cols, std::byte* panel) {
  ConvertPanel(format, dtype, rows, cols, panel);
}

[[gnu::target("avx2")]] void ConvertPanelAvx2(WeightFormat format, DType dtype,
                                              std::span<const void* const> rows, int64_t cols,
                                              std::byte* panel) {
  ConvertPanel(format, dtype, rows, cols, panel);
}

void ConvertPanelWidest(WeightFormat format, DType dtype, std::span<const void* const> rows, int64_t cols,
                        std::byte* panel) {
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return ConvertPanelAvx512(format, dtype, rows, cols, panel);
  }
  if (__builtin_cpu_supports("avx2")) return ConvertPanelAvx2(format, dtype, rows, cols, panel);
  ConvertPanel(format, dtype, rows, cols, panel);
}
#else
void ConvertPanelWidest(WeightFormat format, DType dtype, std::span<const void* const> rows, int64_t cols,
                        std::byte* panel) {
  ConvertPanel(format, dtype, rows, cols, panel);
}
#endif

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
  if (format == WeightFormat::kF32 && dtype == DType::kF32)
    return InterleaveRows(rows, cols, reinterpret_cast<uint32_t*>(panel));
  if (format == WeightFormat::kF16 && dtype == DType::kF16)
    return InterleaveRows(rows, cols, reinterpret_cast<uint16_t*>(panel));
  if (format == WeightFormat::kBF16 && dtype == DType::kBF16) return PackBF16Pairs(rows, cols, panel);
  ConvertPanelWidest(format, dtype, rows, cols, panel);
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
      case WeightFormat::kInt8: {
        const int64_t at = (i / 4 * kPanelRows + lane) * 4 + i % 4;
        out[c] = scale * static_cast<float>(bytes[at] - 128);
        break;
      }
      case WeightFormat::kInt4: {
        const uint8_t pair = bytes[(i / 8 * kPanelRows + lane) * 4 + i % 4];
        out[c] = scale * static_cast<float>((i % 8 < 4 ? pair & 15 : pair >> 4) - 8);
        break;
      }
    }
  }
}

}  // namespace fiddler
