// For the tests of products: packed weights, x and y in memory that shows what is touched beside them, and
// how far a result may be from the oracle's.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "kernels/testing.h"
#include "kernels/tolerances.h"

namespace fiddler::testing {

// What a set of kernels has code for.
struct ProductKind {
  WeightFormat format;
  Rounding rounding;
};

inline std::vector<ProductKind> ProductKinds() {
  std::vector<ProductKind> kinds;
  for (const WeightFormat format : kWeightFormats) {
    kinds.push_back({format, Rounding::kNone});
    if (FastRounding(format) != Rounding::kNone) kinds.push_back({format, FastRounding(format)});
  }
  return kinds;
}

// Every edge of a register, a group, a pair.
inline constexpr int64_t kProductCols[] = {1,  2,  3,  4,  5,  7,  8,   9,   15,  16,  17,
                                           31, 32, 33, 63, 64, 65, 127, 128, 129, 131, 300};

struct ProductShape {
  ProductKind kind;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
  int64_t segments = 1;
};

inline std::string ToString(const ProductShape& s) {
  return fmt::format("{}{} [{}, {}] x {} tokens, {} segments", FormatName(s.kind.format),
                     s.kind.rounding == Rounding::kNone ? "" : " fast", s.rows, s.cols, s.tokens, s.segments);
}

// A product's operands: weights and x are random, x and y have strides of their own, and two more rows of x
// than tokens are there to gather from. Where a segment ends, bytes follow that spoil what is computed from
// them.
class Product {
 public:
  using Bytes = GuardedArray<std::byte>;
  using Floats = GuardedArray<float>;

  Product(const ProductShape& shape, Random& random)
      : shape_(shape),
        x_stride_(shape.cols + random.Range(0, 3)),
        y_stride_(shape.rows + random.Range(0, 3)),
        matrix_({nullptr, shape.kind.format, shape.rows, shape.cols}),
        w_segment_bytes_(static_cast<int64_t>(matrix_.bytes()) + 64 * random.Range(0, 2)),
        w_((shape.segments - 1) * w_segment_bytes_ + static_cast<int64_t>(matrix_.bytes())),
        x_((shape.segments * shape.tokens + 2) * x_stride_ - (x_stride_ - shape.cols)),
        bias_(shape.rows),
        row_index_(shape.segments * shape.tokens) {
    const float scale = 1 / std::sqrt(static_cast<float>(shape.cols));
    std::vector<float> values(static_cast<size_t>(shape.rows * shape.cols));
    for (int64_t segment = 0; segment < shape.segments; ++segment) {
      random.FillNormal(values, scale);
      SetWeights(values, segment);
    }
    const int64_t x_rows = shape.segments * shape.tokens + 2;
    for (int64_t row = 0; row < x_rows; ++row) {
      for (int64_t k = 0; k < shape.cols; ++k) x_[row * x_stride_ + k] = random.Normal();
    }
    random.FillNormal(bias_);
    for (int32_t& row : row_index_) row = static_cast<int32_t>(random.Range(0, x_rows - 1));
  }

  const ProductShape& shape() const { return shape_; }
  const Floats& bias() const { return bias_; }
  int64_t num_panels() const { return matrix_.num_panels(); }
  int64_t y_stride() const { return y_stride_; }
  // Elements up to the last that may be written.
  int64_t y_size() const { return shape_.tokens == 0 ? 0 : (shape_.tokens - 1) * y_stride_ + shape_.rows; }
  int64_t h_size() const { return y_size() - shape_.rows + shape_.rows / 2; }

  void SetX(int64_t t, int64_t k, float value) { x_[t * x_stride_ + k] = value; }
  float X(int64_t t, int64_t k) const { return x_[t * x_stride_ + k]; }
  void Gather() { gather_ = true; }  // tokens are rows of x at random instead of 0, 1, ...

  PackedMatrix Matrix(int64_t segment = 0) const {
    PackedMatrix matrix = matrix_;
    matrix.data = w_.data() + segment * w_segment_bytes_;
    return matrix;
  }
  // Packs `values` [rows, cols].
  void SetWeights(std::span<const float> values, int64_t segment = 0) {
    for (int64_t panel = 0; panel < num_panels(); ++panel) {
      std::vector<const void*> rows;
      for (int64_t r = panel * kPanelRows; r < std::min((panel + 1) * kPanelRows, shape_.rows); ++r)
        rows.push_back(values.data() + r * shape_.cols);
      PackPanel(shape_.kind.format, DType::kF32, rows, shape_.cols,
                const_cast<std::byte*>(Matrix(segment).Panel(panel)));
    }
  }
  // One weight of 16 bits, by its bits.
  void SetBits(int64_t row, int64_t col, uint16_t bits) {
    const int64_t pair = shape_.kind.format == WeightFormat::kBF16 ? 2 : 1;
    std::byte* const group = Group(row, col);
    std::memcpy(group + (row % kPanelRows * pair + col % pair) * 2, &bits, sizeof(bits));
  }
  // The scale of the group of a column, and one of its whole numbers, of INT8 and INT4.
  void SetScale(int64_t row, int64_t col, BF16 scale) {
    std::memcpy(Group(row, col) + row % kPanelRows * 2, &scale, sizeof(scale));
  }
  void SetWhole(int64_t row, int64_t col, int q) {
    auto* const bytes = reinterpret_cast<uint8_t*>(Group(row, col)) + kPanelRows * 2;
    const int64_t lane = row % kPanelRows;
    if (shape_.kind.format == WeightFormat::kInt8) {
      const int64_t i = col % 64;
      bytes[(i / 4 * kPanelRows + lane) * 4 + i % 4] = static_cast<uint8_t>(q + 128);
    } else {
      const int64_t i = col % 32;
      uint8_t& pair = bytes[(i / 8 * kPanelRows + lane) * 4 + i % 4];
      pair = static_cast<uint8_t>(i % 8 < 4 ? (pair & 0xf0) | (q + 8) : (pair & 0x0f) | (q + 8) << 4);
    }
  }

  PackArgs PackX(int64_t segment = 0) const {
    return {.rounding = shape_.kind.rounding,
            .tokens = shape_.tokens,
            .cols = shape_.cols,
            .x = x_.data() + (gather_ ? 0 : segment * shape_.tokens * x_stride_),
            .x_stride = x_stride_,
            .row_index = gather_ ? row_index_.data() + segment * shape_.tokens : nullptr};
  }
  // x as `kernels` take it, all segments one behind the other.
  std::unique_ptr<Bytes> PackedX(const CpuKernels& kernels) const {
    auto packed = std::make_unique<Bytes>(shape_.segments * x_segment_bytes());
    for (int64_t segment = 0; segment < shape_.segments; ++segment) {
      PackArgs args = PackX(segment);
      args.tile_end = kernels.num_tiles(args.rounding, args.tokens);
      args.packed = packed->data() + segment * x_segment_bytes();
      kernels.pack(args);
    }
    CHECK(packed->FrontIntact());
    return packed;
  }

  // All panels, no bias.
  MatMulArgs MatMul(const Bytes& x, float* y) const {
    return {.w = Matrix(),
            .panel_end = num_panels(),
            .rounding = shape_.kind.rounding,
            .tokens = shape_.tokens,
            .x = x.data(),
            .segments = shape_.segments,
            .w_segment_bytes = w_segment_bytes_,
            .x_segment_bytes = x_segment_bytes(),
            .y = y,
            .y_stride = y_stride_};
  }
  // The same weights as gate and up rows; h has y's stride.
  GateUpArgs GateUp(const Bytes& x, float* h) const {
    return {.w = Matrix(),
            .panel_end = num_panels(),
            .rounding = shape_.kind.rounding,
            .tokens = shape_.tokens,
            .x = x.data(),
            .h = h,
            .h_stride = y_stride_};
  }

  // sum_k |x w| over all segments, [tokens, rows]: what errors are relative to. `rounded`: PackedX of the
  // oracle.
  std::vector<double> Magnitudes(const Bytes& rounded) const {
    std::vector<double> sums(static_cast<size_t>(shape_.tokens * shape_.rows));
    std::vector<float> weights(static_cast<size_t>(shape_.cols));
    for (int64_t segment = 0; segment < shape_.segments; ++segment) {
      for (int64_t r = 0; r < shape_.rows; ++r) {
        UnpackRow(Matrix(segment), r, weights.data());
        for (int64_t t = 0; t < shape_.tokens; ++t) {
          const auto* x = reinterpret_cast<const float*>(rounded.data() + segment * x_segment_bytes() +
                                                         t * PackedTokenBytes(shape_.cols));
          double sum = 0;
          for (int64_t k = 0; k < shape_.cols; ++k)
            sum += std::abs(static_cast<double>(x[k]) * weights[static_cast<size_t>(k)]);
          sums[static_cast<size_t>(t * shape_.rows + r)] += sum;
        }
      }
    }
    return sums;
  }

 private:
  int64_t x_segment_bytes() const { return shape_.tokens * PackedTokenBytes(shape_.cols); }
  std::byte* Group(int64_t row, int64_t col) {
    const GroupLayout layout = LayoutOf(shape_.kind.format);
    return const_cast<std::byte*>(Matrix().Panel(row / kPanelRows)) + col / layout.cols * layout.bytes;
  }

  ProductShape shape_;
  int64_t x_stride_;
  int64_t y_stride_;
  PackedMatrix matrix_;  // its data is unset
  int64_t w_segment_bytes_;
  Bytes w_;
  Floats x_;
  Floats bias_;
  GuardedArray<int32_t> row_index_;
  bool gather_ = false;
};

}  // namespace fiddler::testing
