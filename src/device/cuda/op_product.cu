#include <algorithm>
#include <iterator>

#include "device/cuda/products.h"
#include "kernels/cuda/product_sums.cuh"

namespace fiddler::cuda {
namespace {

constexpr int64_t kScratchAlignment = 256;

constexpr int64_t BlockCols(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return KBlock<WeightFormat::kF32>::kCols;
    case WeightFormat::kF16:
      return KBlock<WeightFormat::kF16>::kCols;
    case WeightFormat::kBF16:
      return KBlock<WeightFormat::kBF16>::kCols;
    case WeightFormat::kInt8:
      return KBlock<WeightFormat::kInt8>::kCols;
    case WeightFormat::kInt4:
      return KBlock<WeightFormat::kInt4>::kCols;
  }
  return 1;
}

// Of a row of rounded x: words, and groups that have a scale.
struct RoundedRow {
  int64_t words;
  int64_t groups;
};
constexpr RoundedRow RoundedRowOf(Rounding rounding, int64_t cols) {
  const int64_t chunks = (cols + 63) / 64;
  if (rounding == Rounding::kBF16) return {32 * chunks, 0};
  return {16 * chunks, rounding == Rounding::kInt8Group64 ? chunks : 2 * chunks};
}
constexpr int64_t Aligned(int64_t bytes) {
  return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}

}  // namespace

WeightFormat FormatOf(const char* what, int32_t format) {
  if (format < 0 || format >= static_cast<int32_t>(std::size(kWeightFormats))) {
    throw std::runtime_error(std::string(what) + ": no format " + std::to_string(format));
  }
  return static_cast<WeightFormat>(format);
}

Rounding RoundingOf(const char* what, int32_t rounding, WeightFormat format) {
  if (rounding != static_cast<int32_t>(Rounding::kNone) &&
      rounding != static_cast<int32_t>(FastRounding(format))) {
    throw std::runtime_error(std::string(what) + ": no products of weights of format " +
                             std::to_string(static_cast<int>(format)) + " have rounding " +
                             std::to_string(rounding));
  }
  return static_cast<Rounding>(rounding);
}

uint64_t RoundedBytes(Rounding rounding, int64_t rows, int64_t cols) {
  if (rounding == Rounding::kNone) return 0;
  const RoundedRow row = RoundedRowOf(rounding, cols);
  return static_cast<uint64_t>(Aligned(rows * (row.words * 4 + row.groups * 8)));
}

ProductX RoundX(OpContext& context, const char* what, Rounding rounding, int64_t rows, const float* x,
                const int32_t* row_index, int64_t cols, std::byte* to) {
  const int int_cols = static_cast<int>(cols);
  const RoundedRow row = RoundedRowOf(rounding, cols);
  auto* const words = reinterpret_cast<uint32_t*>(to);
  auto* const scales = reinterpret_cast<uint2*>(words + rows * row.words);
  const int64_t warps = rows * ((cols + 63) / 64);
  const LaunchShape shape = {.grid = dim3(static_cast<unsigned>(CeilDiv(warps * kWarp, kRoundThreads))),
                             .block = dim3(kRoundThreads)};
  const auto launch = [&](auto kernel) {
    Launch(what, shape, context.stream, kernel, rows, x, cols, row_index, int_cols, words, row.words, scales);
  };
  if (rounding == Rounding::kBF16) launch(RoundKernel<XForm::kBf16>);
  if (rounding == Rounding::kInt8Group64) launch(RoundKernel<XForm::kInt8Of64>);
  if (rounding == Rounding::kInt8Group32) launch(RoundKernel<XForm::kInt8Of32>);
  return {
      .values = words, .stride = row.words, .scales = scales, .scale_stride = row.groups, .cols = int_cols};
}

ProductX FloatX(const float* x, int64_t cols) {
  return {.values = x, .stride = cols, .scales = nullptr, .scale_stride = 0, .cols = static_cast<int>(cols)};
}

ProductArgs ArgsFor(const PackedMatrix& shape) {
  const int64_t block_cols = BlockCols(shape.format);
  ProductArgs args = {};
  args.rows_at = -1;
  args.panel_bytes = shape.panel_bytes();
  args.panels = static_cast<int>(shape.num_panels());
  args.blocks = static_cast<int>((shape.cols + block_cols - 1) / block_cols);
  args.groups = static_cast<int>(shape.num_groups());
  args.matrix_rows = static_cast<int>(shape.rows);
  args.splits = 1;
  return args;
}

void MatMul(OpContext& context, const FiddlerMatMul& mat_mul) {
  const char* const what = "mat_mul";
  RequireSize(what, "tokens", mat_mul.tokens, 0);
  RequireSize(what, "rows of the matrix", mat_mul.w.rows, 1);
  RequireSize(what, "columns of the matrix", mat_mul.w.cols, 1);
  RequireAligned(what, "the matrix", mat_mul.w.data, 64);
  const PackedMatrix w = {.data = At<const std::byte>(mat_mul.w.data),
                          .format = FormatOf(what, mat_mul.w.format),
                          .rows = mat_mul.w.rows,
                          .cols = mat_mul.w.cols};
  const Rounding rounding = RoundingOf(what, mat_mul.rounding, w.format);
  const int64_t tokens = mat_mul.tokens;
  if (tokens == 0) return;

  const bool rounds_x = RoundsItself(rounding, tokens);
  const bool as_it_is = rounds_x || rounding == Rounding::kNone;
  const int64_t x_bytes = as_it_is ? 0 : static_cast<int64_t>(RoundedBytes(rounding, tokens, w.cols));
  const auto scratch_bytes = static_cast<int64_t>(context.scratch_bytes);
  if (x_bytes > scratch_bytes) {
    throw std::runtime_error("mat_mul: scratch: needs " + std::to_string(x_bytes) + " bytes, has " +
                             std::to_string(scratch_bytes));
  }
  const auto* const row_index = At<const int32_t>(mat_mul.row_index);
  ProductArgs args = ArgsFor(w);
  const auto* const x = At<const float>(mat_mul.x);
  if (as_it_is) {
    args.x = FloatX(x, w.cols);
    args.x_vectors = w.cols % 4 == 0 && mat_mul.x % sizeof(float4) == 0;
    args.rows = row_index;
  } else {
    args.x = RoundX(context, what, rounding, tokens, x, row_index, w.cols, context.scratch);
  }
  args.bias = At<const float>(mat_mul.bias);
  args.out = At<float>(mat_mul.y);
  args.out_stride = w.rows;
  args.vectors = w.rows % 4 == 0 && mat_mul.y % sizeof(float4) == 0;
  Tables tables = {};
  *reinterpret_cast<Piece*>(tables.here) = {.slices = w.data,
                                            .weights = nullptr,
                                            .num_slices = 1,
                                            .tokens = static_cast<int>(tokens),
                                            .first_row = 0,
                                            .first_pair = 0};
  const ProductKernel kernel = {
      .format = w.format, .rounding = rounding, .gate_up = false, .rounds_x = rounds_x};
  const ProductExtent extent = {.panels = w.num_panels(), .tokens = tokens, .pieces = 1};
  if (FormOf(rounding, tokens) == Form::kTiled) {
    return LaunchTiled(context, what, kernel, tables, args, extent);
  }

  const int64_t tile = StreamTokens(rounding, tokens);
  const int64_t count = tokens * w.rows;
  const int64_t room = (scratch_bytes - x_bytes) / (count * static_cast<int64_t>(sizeof(float)));
  const int64_t splits = std::min(
      StreamSplits(extent.panels * ((tokens + tile - 1) / tile), args.blocks, context.num_sms), room);
  if (splits <= 1) return LaunchStream(context, what, kernel, tables, args, extent);
  auto* const parts = reinterpret_cast<float*>(context.scratch + x_bytes);
  args.splits = static_cast<int>(splits);
  args.split_stride = count;
  args.bias = nullptr;
  args.out = parts;
  LaunchStream(context, what, kernel, tables, args, extent);
  Launch(what, {.grid = dim3(static_cast<unsigned>(CeilDiv(count, kSumThreads))), .block = dim3(kSumThreads)},
         context.stream, SumSplitsKernel, count, args.matrix_rows, args.splits,
         static_cast<const float*>(parts), At<const float>(mat_mul.bias), At<float>(mat_mul.y));
}

}  // namespace fiddler::cuda
