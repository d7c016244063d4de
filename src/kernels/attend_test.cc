// attend of every set against the oracle, and what it promises to the last bit.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/dispatch.h"
#include "kernels/testing.h"
#include "kernels/tolerances.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::Random;
using testing::SameBits;
using testing::Untouched;

struct Shape {
  int64_t tokens = 1;
  int64_t first_position = 0;
  int64_t window = 0;
  int64_t group = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 1;
  int64_t block_tokens = 1;
};

std::string ToString(const Shape& s) {
  return fmt::format("{} tokens from {}, window {}, {} kv heads x {}, head_dim {}, blocks of {}", s.tokens,
                     s.first_position, s.window, s.kv_heads, s.group, s.head_dim, s.block_tokens);
}

// A cache in permuted blocks, of which nothing but the positions of the sequence is ever filled (the rest is
// NaN), and queries.
class Problem {
 public:
  Problem(const Shape& shape, Random& random)
      : shape_(shape),
        positions_(shape.first_position + shape.tokens),
        blocks_((positions_ + shape.block_tokens - 1) / shape.block_tokens),
        block_stride_(2 * shape.kv_heads * shape.block_tokens * shape.head_dim + random.Range(0, 3)),
        layer_((blocks_ + 1) * block_stride_),
        table_(blocks_),
        q_stride_(shape.kv_heads * shape.group * shape.head_dim + random.Range(0, 3)),
        q_(shape.tokens * q_stride_) {
    std::vector<int32_t> order(static_cast<size_t>(blocks_ + 1));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = 0; i < blocks_; ++i) {
      std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.Range(i, blocks_))]);
      table_[i] = order[static_cast<size_t>(i)];
    }
    random.FillNormal(q_);
    for (int64_t p = 0; p < positions_; ++p) {
      for (int64_t h = 0; h < shape.kv_heads; ++h) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          Key(p, h)[d] = random.Normal();
          Value(p, h)[d] = random.Normal();
        }
      }
    }
  }

  // The same queries, keys and values in blocks of another size.
  Problem(const Problem& other, int64_t block_tokens, Random& random)
      : Problem(WithBlocks(other.shape_, block_tokens), random) {
    for (int64_t p = 0; p < positions_; ++p) {
      for (int64_t h = 0; h < shape_.kv_heads; ++h) {
        std::copy_n(other.Key(p, h), shape_.head_dim, Key(p, h));
        std::copy_n(other.Value(p, h), shape_.head_dim, Value(p, h));
      }
    }
    q_stride_ = std::min(q_stride_, other.q_stride_);
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      std::copy_n(other.q_.data() + t * other.q_stride_, width(), q_.data() + t * q_stride_);
    }
  }

  float* Key(int64_t p, int64_t h) { return const_cast<float*>(std::as_const(*this).Key(p, h)); }
  float* Value(int64_t p, int64_t h) { return const_cast<float*>(std::as_const(*this).Value(p, h)); }
  const float* Key(int64_t p, int64_t h) const {
    return View().Keys(p / shape_.block_tokens, h) + p % shape_.block_tokens * shape_.head_dim;
  }
  const float* Value(int64_t p, int64_t h) const {
    return View().Values(p / shape_.block_tokens, h) + p % shape_.block_tokens * shape_.head_dim;
  }
  GuardedArray<float>& q() { return q_; }
  int64_t width() const { return shape_.kv_heads * shape_.group * shape_.head_dim; }
  int64_t positions() const { return positions_; }

  AttendArgs Args(int64_t kv_head, float* out) const {
    return {.tokens = shape_.tokens,
            .first_position = shape_.first_position,
            .window = shape_.window,
            .kv_head = kv_head,
            .group = shape_.group,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
            .q = q_.data(),
            .q_stride = q_stride_,
            .out = out,
            .out_stride = width(),
            .kv = View()};
  }

  // What an error of one of this head's results may be.
  double Tolerance(const AttendArgs& args) const {
    double largest_value = 0;
    double largest_score = 0;
    for (int64_t p = 0; p < positions_; ++p) {
      for (int64_t d = 0; d < shape_.head_dim; ++d) {
        largest_value = std::max<double>(largest_value, std::abs(Value(p, args.kv_head)[d]));
      }
      for (int64_t t = 0; t < shape_.tokens; ++t) {
        for (int64_t g = 0; g < shape_.group; ++g) {
          const float* q = args.q + t * args.q_stride + (args.kv_head * args.group + g) * shape_.head_dim;
          double score = 0;
          for (int64_t d = 0; d < shape_.head_dim; ++d) score += std::abs(q[d] * Key(p, args.kv_head)[d]);
          largest_score = std::max(largest_score, args.scale * score);
        }
      }
    }
    return largest_value * (tolerance::kAttend + tolerance::kAttendPerScore * largest_score);
  }

 private:
  static Shape WithBlocks(Shape shape, int64_t block_tokens) {
    shape.block_tokens = block_tokens;
    return shape;
  }
  KvView View() const {
    return {layer_.data(),       block_stride_,   table_.data(),
            shape_.block_tokens, shape_.kv_heads, shape_.head_dim};
  }

  Shape shape_;
  int64_t positions_;
  int64_t blocks_;
  int64_t block_stride_;
  GuardedArray<float> layer_;
  GuardedArray<int32_t> table_;
  int64_t q_stride_;
  GuardedArray<float> q_;
};

void ExpectLikeOracle(const Problem& problem, AttendArgs args) {
  const int64_t size = args.tokens * problem.width();
  GuardedArray<float> expected(size);
  args.out = expected.data();
  GenericKernels().attend(args);
  const double tolerance = problem.Tolerance(args);
  const int64_t heads_width = args.group * args.kv.head_dim;
  for (const CpuKernels* kernels : FastKernels()) {
    SCOPED_TRACE(kernels->isa);
    GuardedArray<float> out(size);
    args.out = out.data();
    kernels->attend(args);
    EXPECT_TRUE(out.FrontIntact());
    for (int64_t i = 0; i < size; ++i) {
      if (i % args.out_stride / heads_width == args.kv_head) {
        ASSERT_NEAR(out[i], expected[i], tolerance)
            << "token " << i / args.out_stride << ", element " << i % args.out_stride;
      } else {
        ASSERT_TRUE(Untouched(out[i])) << i;
      }
    }
  }
}

Shape RandomShape(Random& random) {
  return {.tokens = random.Pick({1, 1, 2, 3, 5, 9, 33, 40}),
          .first_position = random.Pick({0, 0, 1, 15, 31, 32, 33, 63, 100, 200}),
          .window = random.Pick({0, 0, 1, 2, 7, 32, 33, 70, 1000}),
          .group = random.Pick({1, 1, 2, 3, 4, 7, 8, 40}),
          .kv_heads = random.Range(1, 3),
          .head_dim = random.Pick({1, 2, 5, 8, 13, 16, 17, 32, 40, 64, 80, 96, 128, 131, 160}),
          .block_tokens = random.Pick({1, 3, 8, 16, 32, 40, 64, 300})};
}

TEST(Attend, LikeOracle) {
  Random random(1);
  for (int i = 0; i < 250; ++i) {
    const Shape shape = RandomShape(random);
    SCOPED_TRACE(ToString(shape));
    const Problem problem(shape, random);
    ExpectLikeOracle(problem, problem.Args(random.Range(0, shape.kv_heads - 1), nullptr));
  }
}

// Scores so large that exp overflows without the shift, in steps that move the largest score from chunk to
// chunk, up and down.
TEST(Attend, LargeScores) {
  Random random(2);
  for (const float size : {30.0f, 1e3f, 1e5f}) {
    for (const int step : {1, 17, 40}) {
      const Shape shape{.tokens = 9, .first_position = 120, .group = 3, .head_dim = 24, .block_tokens = 16};
      Problem problem(shape, random);
      for (int64_t p = 0; p < problem.positions(); ++p) {
        const auto level = static_cast<float>(p / step % 5) * size;
        for (int64_t d = 0; d < shape.head_dim; ++d) problem.Key(p, 0)[d] = level;
      }
      for (float& q : problem.q()) q = std::abs(q);
      SCOPED_TRACE(fmt::format("{}, scores {}, step {}", ToString(shape), size, step));
      ExpectLikeOracle(problem, problem.Args(0, nullptr));
    }
  }
}

// All scores the same, however large: the mean of the values.
TEST(Attend, EqualScoresGiveTheMean) {
  Random random(3);
  for (const float score : {0.0f, -1e4f, 1e30f, -1e30f, 1e-42f}) {
    const Shape shape{.tokens = 1, .first_position = 99, .group = 2, .head_dim = 1, .block_tokens = 8};
    Problem problem(shape, random);
    double mean = 0;
    for (int64_t p = 0; p < 100; ++p) {
      *problem.Key(p, 0) = score;
      mean += *problem.Value(p, 0) / 100;
    }
    for (float& q : problem.q()) q = 1;
    for (const CpuKernels* kernels : FastKernels()) {
      GuardedArray<float> out(2);
      kernels->attend(problem.Args(0, out.data()));
      EXPECT_NEAR(out[0], mean, 1e-5) << kernels->isa << " " << score;
      EXPECT_TRUE(SameBits(out[0], out[1])) << kernels->isa << " " << score;
    }
  }
}

// A token alone, in any company, and in blocks of any size: the same bits.
TEST(Attend, ResultDependsOnQueryAndItsPositionsAlone) {
  Random random(4);
  for (int i = 0; i < 120; ++i) {
    const Shape shape = RandomShape(random);
    SCOPED_TRACE(ToString(shape));
    const Problem problem(shape, random);
    const Problem reblocked(problem, random.Pick({1, 5, 16, 64}), random);
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      const int64_t size = shape.tokens * problem.width();
      GuardedArray<float> together(size);
      GuardedArray<float> apart(size);
      for (int64_t h = 0; h < shape.kv_heads; ++h) {
        kernels->attend(problem.Args(h, together.data()));
        const AttendArgs all = reblocked.Args(h, apart.data());
        for (int64_t t = 0; t < shape.tokens;) {
          AttendArgs part = all;
          part.tokens = random.Range(1, shape.tokens - t);
          part.first_position += t;
          part.q += t * all.q_stride;
          part.out += t * all.out_stride;
          kernels->attend(part);
          t += part.tokens;
        }
      }
      for (int64_t j = 0; j < size; ++j) {
        ASSERT_TRUE(SameBits(together[j], apart[j])) << j << ": " << together[j] << ", apart " << apart[j];
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
