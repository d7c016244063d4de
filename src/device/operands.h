// What an operation of the emulated device reads and writes: device addresses to host pointers, checked over
// the whole extent that the operation will touch. Every failure is an Error that names operation and operand.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/dtype.h"
#include "base/error.h"
#include "device/emulated_memory.h"
#include "kernels/ops.h"

namespace fiddler::emulated {

class Operands {
 public:
  static constexpr uint64_t kLine = 64;  // alignment of slices and caches (plugin.h)

  // `op`: "mat_mul". References must outlive this object.
  Operands(const EmulatedMemory& memory, std::string_view op) : memory_(memory), op_(op) {}

  std::byte* Bytes(FiddlerAddress address, int64_t bytes, std::string_view operand,
                   uint64_t alignment = EmulatedMemory::kAlignment) const;
  float* Floats(FiddlerAddress address, int64_t count, std::string_view operand) const;
  std::span<const int32_t> Ints(FiddlerAddress address, int64_t count, std::string_view operand) const;
  // [count], or null where the address is 0.
  float* FloatsIfAny(FiddlerAddress address, int64_t count, std::string_view operand) const {
    return address == 0 ? nullptr : Floats(address, count, operand);
  }

  PackedMatrix Matrix(const FiddlerMatrix& matrix, std::string_view operand) const;
  WeightFormat Format(int32_t format) const;
  // One that products with these weights can have.
  Rounding RoundingOf(int32_t rounding, WeightFormat format) const;

  // That a size is in [low, high].
  void RequireSize(std::string_view name, int64_t value, int64_t low, int64_t high = kMostElements) const;
  // That rows are numbers of rows; returns how many rows there must be.
  int64_t RowsNeeded(std::span<const int32_t> rows, std::string_view operand) const;

  // That what an operation writes is not what it reads: there is no order between the two on a device.
  void RequireApart(const float* x, int64_t x_count, const float* y, int64_t y_count,
                    std::string_view names) const;

  template <typename... Args>
  [[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error("{}: {}", op_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  // Of one dimension: products of two fit in 64 bits, with a size of element.
  static constexpr int64_t kMostElements = int64_t{1} << 30;

  const EmulatedMemory& memory_;
  std::string_view op_;
};

}  // namespace fiddler::emulated
