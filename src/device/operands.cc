#include "device/operands.h"

#include <algorithm>
#include <functional>
#include <string>

namespace fiddler::emulated {

std::byte* Operands::Bytes(FiddlerAddress address, int64_t bytes, std::string_view operand,
                           uint64_t alignment) const {
  return memory_.Translate(address, static_cast<uint64_t>(bytes), alignment,
                           fmt::format("{}: {}", op_, operand));
}

float* Operands::Floats(FiddlerAddress address, int64_t count, std::string_view operand) const {
  return reinterpret_cast<float*>(
      Bytes(address, count * static_cast<int64_t>(sizeof(float)), operand, alignof(float)));
}

std::span<const int32_t> Operands::Ints(FiddlerAddress address, int64_t count,
                                        std::string_view operand) const {
  const std::byte* const ints =
      Bytes(address, count * static_cast<int64_t>(sizeof(int32_t)), operand, alignof(int32_t));
  return {reinterpret_cast<const int32_t*>(ints), static_cast<size_t>(count)};
}

PackedMatrix Operands::Matrix(const FiddlerMatrix& matrix, std::string_view operand) const {
  RequireSize("rows of the matrix", matrix.rows, 1);
  RequireSize("columns of the matrix", matrix.cols, 1);
  PackedMatrix packed = {
      .data = nullptr, .format = Format(matrix.format), .rows = matrix.rows, .cols = matrix.cols};
  packed.data = Bytes(matrix.data, static_cast<int64_t>(packed.bytes()), operand);
  return packed;
}

WeightFormat Operands::Format(int32_t format) const {
  if (format < 0 || format >= static_cast<int32_t>(std::size(kWeightFormats))) Fail("no format {}", format);
  return static_cast<WeightFormat>(format);
}

Rounding Operands::RoundingOf(int32_t rounding, WeightFormat format) const {
  const auto fast = static_cast<int32_t>(FastRounding(format));
  if (rounding != static_cast<int32_t>(Rounding::kNone) && rounding != fast) {
    Fail("no products of {} weights have rounding {}", FormatName(format), rounding);
  }
  return static_cast<Rounding>(rounding);
}

void Operands::RequireSize(std::string_view name, int64_t value, int64_t low, int64_t high) const {
  if (value < low || value > high) Fail("{}: expected {} to {}, got {}", name, low, high, value);
}

int64_t Operands::RowsNeeded(std::span<const int32_t> rows, std::string_view operand) const {
  int32_t most = -1;
  for (const int32_t row : rows) {
    if (row < 0) Fail("{}: no row {}", operand, row);
    most = std::max(most, row);
  }
  return int64_t{most} + 1;
}

void Operands::RequireApart(const float* x, int64_t x_count, const float* y, int64_t y_count,
                            std::string_view names) const {
  const std::less<const float*> before;
  if (x_count > 0 && y_count > 0 && before(x, y + y_count) && before(y, x + x_count)) {
    Fail("{} overlap", names);
  }
}

}  // namespace fiddler::emulated
