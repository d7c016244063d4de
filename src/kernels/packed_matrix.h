// How weights lie in memory for the kernels.
//
// A matrix [rows, cols] is cut into panels of 32 rows. A panel is one sequential stream, columns in rising
// order, the 32 rows side by side, so that a kernel keeps one sum a row in a lane of a register, reads the
// panel once from end to end, multiplies with one broadcast number (or pair, or four) of x, and never adds
// across lanes. Columns come in groups:
//
//   format  columns  bytes  a group of a panel
//   F32           1    128  [32 rows] float
//   F16           1     64  [32 rows] F16
//   BF16          2    128  [32 rows][2 columns] BF16: what vdpbf16ps, or a tensor core, takes
//   INT8         64   2112  [32 rows] BF16 scale, then [16 quads][32 rows][4 columns] bytes q + 128:
//                           weight = scale * q, q in [-127, 127]
//   INT4         32    576  [32 rows] BF16 scale, then [4 pairs of quads][32 rows][4 columns] bytes: low
//                           halves q + 8 of the first quad, high halves of the second;
//                           weight = scale * q, q in [-8, 7]
//
// Columns past the last are zeros up to a whole group, rows past the last up to a whole panel. A panel is a
// multiple of 64 bytes and begins at one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/dtype.h"

namespace fiddler {

inline constexpr int64_t kPanelRows = 32;

enum class WeightFormat : uint8_t { kF32, kF16, kBF16, kInt8, kInt4 };
inline constexpr WeightFormat kWeightFormats[] = {WeightFormat::kF32, WeightFormat::kF16, WeightFormat::kBF16,
                                                  WeightFormat::kInt8, WeightFormat::kInt4};

// Columns and bytes of one group of a panel.
struct GroupLayout {
  int64_t cols;
  int64_t bytes;
};

[[gnu::always_inline]] inline constexpr GroupLayout LayoutOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return {1, kPanelRows * 4};
    case WeightFormat::kF16:
      return {1, kPanelRows * 2};
    case WeightFormat::kBF16:
      return {2, kPanelRows * 4};
    case WeightFormat::kInt8:
      return {64, kPanelRows * (2 + 64)};
    case WeightFormat::kInt4:
      return {32, kPanelRows * (2 + 16)};
  }
  __builtin_unreachable();
}

std::string_view FormatName(WeightFormat format);  // "bf16", "int8"
WeightFormat FormatOf(DType dtype);                // that holds F32, F16 or BF16 exactly; CHECKs others

// A packed matrix. Owns nothing. Forced inline, as LayoutOf: also used where the instruction set is not
// everyone's (tools/check_isa_objects).
struct PackedMatrix {
  const std::byte* data = nullptr;
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  [[gnu::always_inline]] constexpr int64_t num_panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  [[gnu::always_inline]] constexpr int64_t num_groups() const {
    return (cols + LayoutOf(format).cols - 1) / LayoutOf(format).cols;
  }
  [[gnu::always_inline]] constexpr int64_t panel_bytes() const {
    return num_groups() * LayoutOf(format).bytes;
  }
  [[gnu::always_inline]] constexpr size_t bytes() const {
    return static_cast<size_t>(num_panels() * panel_bytes());
  }
  [[gnu::always_inline]] constexpr const std::byte* Panel(int64_t panel) const {
    return data + panel * panel_bytes();
  }
  // The rows of panels [begin, end), end at most num_panels().
  [[gnu::always_inline]] constexpr PackedMatrix Panels(int64_t begin, int64_t end) const {
    const int64_t end_row = end * kPanelRows < rows ? end * kPanelRows : rows;
    return {.data = Panel(begin), .format = format, .rows = end_row - begin * kPanelRows, .cols = cols};
  }
};

// Writes one panel of a matrix of `cols` columns in `format`: all PackedMatrix::panel_bytes() of it. Row i is
// rows[i], `cols` elements of `dtype` (F32, F16 or BF16), or zeros where that is null or past the span.
// Exact for the formats that hold the type; kInt8 and kInt4 round to the nearest multiple of the group's
// scale (kInt8: largest magnitude / 127; kInt4: the best of a few scales by squared error). There an infinity
// or a NaN makes NaNs of its whole group, and a group of magnitudes below 2^-100 becomes zeros.
void PackPanel(WeightFormat format, DType dtype, std::span<const void* const> rows, int64_t cols,
               std::byte* panel);

// The weights of one row as the kernels see them, [cols].
void UnpackRow(const PackedMatrix& matrix, int64_t row, float* out);

}  // namespace fiddler
