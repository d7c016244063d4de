// For the tests of attention: a KV cache of one layer and one sequence, and queries.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/testing.h"
#include "kernels/tolerances.h"

namespace fiddler::testing {

struct AttendShape {
  int64_t tokens = 1;
  int64_t first_position = 0;
  int64_t window = 0;
  int64_t group = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 1;
  DType dtype = DType::kF32;

  int64_t positions() const { return first_position + tokens; }
  int64_t heads() const { return kv_heads * group; }
};

inline std::string ToString(const AttendShape& s) {
  return fmt::format("{}, {} tokens from {}, window {}, {} kv heads x {}, head_dim {}", DTypeName(s.dtype),
                     s.tokens, s.first_position, s.window, s.kv_heads, s.group, s.head_dim);
}

// Memory for AttendArgs::scratch, no more than there must be.
class AttendScratch {
 public:
  explicit AttendScratch(int64_t head_dim)
      : lines_(AttendScratchBytes(head_dim) / static_cast<int64_t>(sizeof(Line))) {}
  std::byte* data() { return lines_.data()->bytes; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  GuardedArray<Line> lines_;
};

// Keys and values in permuted blocks. Nothing but the positions of the sequence is ever written; the rest is
// NaN.
class AttendProblem {
 public:
  AttendProblem(const AttendShape& shape, Random& random)
      : shape_(shape),
        layout_{.dtype = shape.dtype, .head_dim = shape.head_dim},
        blocks_((shape.positions() + KvLayout::kBlockTokens - 1) / KvLayout::kBlockTokens),
        head_stride_((blocks_ + 1) * layout_.bytes() + 4 * random.Range(0, 3)),
        layer_(shape.kv_heads * head_stride_ / 4),
        table_(blocks_),
        q_stride_(shape.heads() * shape.head_dim + random.Range(0, 3)),
        scratch_(shape.head_dim),
        keys(static_cast<size_t>(shape.positions() * shape.kv_heads * shape.head_dim)),
        values(keys.size()),
        q(shape.tokens * q_stride_) {
    std::vector<int32_t> order(static_cast<size_t>(blocks_ + 1));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = 0; i < blocks_; ++i) {
      std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.Range(i, blocks_))]);
      table_[i] = order[static_cast<size_t>(i)];
    }
    random.FillNormal(keys);
    random.FillNormal(values);
    random.FillNormal(q);
    Write();
  }

  // Stores `keys` and `values`.
  void Write() {
    GenericKernels().kv_write(
        {.tokens = shape_.positions(), .k = keys.data(), .v = values.data(), .kv = View()});
  }

  const AttendShape& shape() const { return shape_; }
  int64_t width() const { return shape_.heads() * shape_.head_dim; }
  GuardedArray<uint32_t>& cells() { return layer_; }

  KvView View() const {
    return {.layer = reinterpret_cast<std::byte*>(const_cast<uint32_t*>(layer_.data())),
            .head_stride = head_stride_,
            .block_table = table_.data(),
            .kv_heads = shape_.kv_heads,
            .layout = layout_};
  }

  AttendArgs Args(int64_t kv_head, float* out) {
    return {.tokens = shape_.tokens,
            .first_position = shape_.first_position,
            .window = shape_.window,
            .kv_head = kv_head,
            .group = shape_.group,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
            .q = q.data(),
            .q_stride = q_stride_,
            .out = out,
            .out_stride = width(),
            .scratch = scratch_.data(),
            .kv = View()};
  }

  // What an error of one of this head's results may be.
  double Tolerance(const AttendArgs& args) const {
    double largest_value = 0;
    for (int64_t p = 0; p < shape_.positions(); ++p) {
      for (int64_t d = 0; d < shape_.head_dim; ++d) {
        largest_value = std::max<double>(largest_value, std::abs(values[Index(p, args.kv_head, d)]));
      }
    }
    double error = 0;
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      for (int64_t g = 0; g < shape_.group; ++g) error = std::max(error, WeightError(args, t, g));
    }
    return largest_value * error;
  }

 private:
  size_t Index(int64_t position, int64_t kv_head, int64_t dim) const {
    return static_cast<size_t>((position * shape_.kv_heads + kv_head) * shape_.head_dim + dim);
  }

  // Of all weights of one query together, relative to their total.
  double WeightError(const AttendArgs& args, int64_t t, int64_t g) const {
    const float* query = args.q + t * args.q_stride + (args.kv_head * args.group + g) * shape_.head_dim;
    const auto round = [&](float x) { return shape_.dtype == DType::kBF16 ? ToFloat(ToBF16(x)) : x; };
    const int64_t newest = shape_.first_position + t;
    const int64_t oldest = shape_.window > 0 ? std::max<int64_t>(0, newest - shape_.window + 1) : 0;
    std::vector<double> scores;
    double magnitude = 0;
    for (int64_t p = oldest; p <= newest; ++p) {
      double score = 0;
      double sum = 0;
      for (int64_t d = 0; d < shape_.head_dim; ++d) {
        const double product = static_cast<double>(round(query[d])) * round(keys[Index(p, args.kv_head, d)]);
        score += product;
        sum += std::abs(product);
      }
      scores.push_back(args.scale * score);
      magnitude = std::max(magnitude, args.scale * sum);
    }
    const double error = tolerance::kAttend + tolerance::kAttendPerScore * magnitude;
    if (shape_.dtype == DType::kF32) return error;

    // Where the error of a weight reaches over the border between two BF16, it may become the other one.
    const double largest = *std::max_element(scores.begin(), scores.end()) * std::numbers::log2e;
    double total = 0;
    double steps = 0;
    for (double score : scores) {
      const double weight = std::exp2(score * std::numbers::log2e - std::rint(largest));
      const double low = round(static_cast<float>(weight * std::max(0.0, 1 - error)));
      const double high = round(static_cast<float>(weight * (1 + error)));
      total += low;
      steps += high - low;
    }
    return error + 2 * steps / total;  // in the sum and in the total
  }

  AttendShape shape_;
  KvLayout layout_;
  int64_t blocks_;
  int64_t head_stride_;
  GuardedArray<uint32_t> layer_;
  GuardedArray<int32_t> table_;
  int64_t q_stride_;
  AttendScratch scratch_;

 public:
  std::vector<float> keys;  // [positions, kv_heads, head_dim]
  std::vector<float> values;
  GuardedArray<float> q;  // [tokens, heads, head_dim], rows args.q_stride apart
};

}  // namespace fiddler::testing
