// attend of every set against the oracle, and what it promises to the last bit.
#include <gtest/gtest.h>

#include "kernels/attend_testing.h"

namespace fiddler {
namespace {

using testing::AttendProblem;
using testing::AttendShape;
using testing::FastKernels;
using testing::GuardedArray;
using testing::Random;
using testing::SameBits;
using testing::ToString;
using testing::Untouched;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

void ExpectLikeOracle(AttendProblem& problem, int64_t kv_head) {
  const int64_t size = problem.shape().tokens * problem.width();
  GuardedArray<float> expected(size);
  AttendArgs args = problem.Args(kv_head, expected.data());
  GenericKernels().attend(args);
  const double tolerance = problem.Tolerance(args);
  const int64_t heads_width = args.group * args.kv.layout.head_dim;
  for (const CpuKernels* kernels : FastKernels()) {
    SCOPED_TRACE(kernels->isa);
    GuardedArray<float> out(size);
    args.out = out.data();
    kernels->attend(args);
    EXPECT_TRUE(out.FrontIntact());
    for (int64_t i = 0; i < size; ++i) {
      if (i % args.out_stride / heads_width == kv_head) {
        ASSERT_NEAR(out[i], expected[i], tolerance)
            << "token " << i / args.out_stride << ", element " << i % args.out_stride;
      } else {
        ASSERT_TRUE(Untouched(out[i])) << i;
      }
    }
  }
}

// Around the borders of blocks (32), chunks (128), segments (512) and of what scratch holds (128 queries).
AttendShape RandomShape(Random& random) {
  AttendShape shape = {
      .tokens = random.Pick({1, 1, 2, 3, 5, 9, 33, 40, 65}),
      .first_position =
          random.Pick({0, 0, 1, 15, 31, 32, 33, 63, 100, 127, 128, 200, 480, 511, 512, 600, 1100}),
      .window = random.Pick({0, 0, 1, 2, 7, 32, 33, 70, 127, 129, 511, 513, 1000}),
      .group = random.Pick({1, 1, 2, 3, 4, 7, 8, 12, 13, 40}),
      .kv_heads = random.Range(1, 3),
      .head_dim = random.Pick({1, 2, 5, 8, 13, 16, 17, 32, 40, 64, 80, 96, 128, 131, 160, 256}),
      .dtype = random.Coin() ? DType::kBF16 : DType::kF32};
  const auto cost = [&] { return shape.tokens * shape.positions() * shape.group * shape.head_dim; };
  while (shape.tokens > 1 && cost() > 4'000'000) shape.tokens = (shape.tokens + 1) / 2;
  return shape;
}

TEST(Attend, LikeOracle) {
  Random random(1);
  for (int i = 0; i < 400; ++i) {
    const AttendShape shape = RandomShape(random);
    SCOPED_TRACE(ToString(shape));
    AttendProblem problem(shape, random);
    ExpectLikeOracle(problem, random.Range(0, shape.kv_heads - 1));
  }
}

// One position outweighs the rest, in turn the first and the last that a query sees and those beside them: a
// limit that is off by one shows at once.
TEST(Attend, LimitsAreExact) {
  Random random(5);
  for (const DType dtype : kTypes) {
    for (const int64_t window : {0, 1, 2, 31, 32, 33, 127, 128, 130, 512, 600}) {
      for (const int64_t position : {0, 1, 31, 32, 33, 127, 128, 160, 511, 512, 700}) {
        const AttendShape shape{.tokens = 2,
                                .first_position = position,
                                .window = window,
                                .group = 2,
                                .head_dim = 6,
                                .dtype = dtype};
        SCOPED_TRACE(ToString(shape));
        AttendProblem problem(shape, random);
        for (float& q : problem.q) q = 1;
        for (const int64_t loud : {position - window, position - window + 1, position, position + 1}) {
          if (loud < 0 || loud > position + 1) continue;
          for (int64_t p = 0; p < shape.positions(); ++p) {
            for (int64_t d = 0; d < 6; ++d) {
              problem.keys[static_cast<size_t>(p * 6 + d)] = p == loud ? 8 : -1;
            }
          }
          problem.Write();
          ExpectLikeOracle(problem, 0);
        }
      }
    }
  }
}

// Scores so large that exp overflows without the shift, in steps that move the largest score from chunk to
// chunk, up and down.
TEST(Attend, LargeScores) {
  Random random(2);
  for (const DType dtype : kTypes) {
    for (const float size : {30.0f, 1e3f, 1e5f}) {
      for (const int step : {1, 17, 40, 130, 520}) {
        const AttendShape shape{
            .tokens = 9, .first_position = 1120, .group = 3, .head_dim = 24, .dtype = dtype};
        AttendProblem problem(shape, random);
        for (int64_t p = 0; p < shape.positions(); ++p) {
          const auto level = static_cast<float>(p / step % 5) * size;
          std::fill_n(problem.keys.begin() + p * shape.head_dim, shape.head_dim, level);
        }
        problem.Write();
        for (float& q : problem.q) q = std::abs(q);
        SCOPED_TRACE(fmt::format("{}, scores {}, step {}", ToString(shape), size, step));
        ExpectLikeOracle(problem, 0);
      }
    }
  }
}

// All scores the same, however large: the mean of the values.
TEST(Attend, EqualScoresGiveTheMean) {
  Random random(3);
  for (const DType dtype : kTypes) {
    for (const float score : {0.0f, -1e4f, 1e30f, -1e30f, 1e-42f}) {
      const AttendShape shape{.tokens = 1, .first_position = 699, .group = 2, .head_dim = 1, .dtype = dtype};
      AttendProblem problem(shape, random);
      double mean = 0;
      for (float& value : problem.values) {
        value = ToFloat(ToBF16(value));
        mean += value / 700;
      }
      std::fill(problem.keys.begin(), problem.keys.end(), score);
      problem.Write();
      for (float& q : problem.q) q = 1;
      for (const CpuKernels* kernels : FastKernels()) {
        GuardedArray<float> out(2);
        kernels->attend(problem.Args(0, out.data()));
        EXPECT_NEAR(out[0], mean, 1e-5) << kernels->isa << " " << score;
        EXPECT_TRUE(SameBits(out[0], out[1])) << kernels->isa << " " << score;
      }
    }
  }
}

// A NaN of a query shows in its result, and in no other.
TEST(Attend, NanStaysWhereItIs) {
  Random random(6);
  for (const DType dtype : kTypes) {
    const AttendShape shape{.tokens = 3, .first_position = 540, .group = 3, .head_dim = 20, .dtype = dtype};
    AttendProblem problem(shape, random);
    problem.q[problem.Args(0, nullptr).q_stride + 20 + 7] = NAN;  // token 1, head 1
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      GuardedArray<float> out(3 * 60);
      kernels->attend(problem.Args(0, out.data()));
      for (int64_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 20 == 4) << i;
    }
  }
}

// Tokens [first, first + count) of args.
AttendArgs Part(const AttendArgs& args, int64_t first, int64_t count) {
  AttendArgs part = args;
  part.tokens = count;
  part.first_position += first;
  part.q += first * args.q_stride;
  part.out += first * args.out_stride;
  return part;
}

void AttendInSegments(const CpuKernels& kernels, const AttendArgs& args) {
  const SegmentRange segments = SegmentsOf(args.first_position, args.tokens, args.window);
  const int64_t stride = args.tokens * args.group * AttendPartialFloats(args.kv.layout.head_dim);
  GuardedArray<float> partials((segments.end - segments.begin) * stride);
  for (int64_t s = segments.end; s-- > segments.begin;) {  // in any order
    kernels.attend_segment(args, s, partials.data() + (s - segments.begin) * stride);
  }
  kernels.attend_merge(args, partials.data());
}

// A token alone, in any company, whole or in segments, in other blocks: the same bits.
TEST(Attend, ResultDependsOnQueryAndItsPositionsAlone) {
  Random random(4);
  for (int i = 0; i < 200; ++i) {
    const AttendShape shape = RandomShape(random);
    SCOPED_TRACE(ToString(shape));
    AttendProblem problem(shape, random);
    AttendProblem moved(shape, random);
    moved.keys = problem.keys;
    moved.values = problem.values;
    moved.Write();
    const AttendArgs from = problem.Args(0, nullptr);
    for (const CpuKernels* kernels : SupportedKernels()) {
      SCOPED_TRACE(kernels->isa);
      const int64_t size = shape.tokens * problem.width();
      GuardedArray<float> together(size);
      GuardedArray<float> apart(size);
      for (int64_t h = 0; h < shape.kv_heads; ++h) {
        kernels->attend(problem.Args(h, together.data()));
        AttendArgs all = moved.Args(h, apart.data());
        all.q = from.q;
        all.q_stride = from.q_stride;
        for (int64_t t = 0; t < shape.tokens;) {
          const AttendArgs part = Part(all, t, random.Range(1, shape.tokens - t));
          if (random.Coin()) {
            kernels->attend(part);
          } else {
            AttendInSegments(*kernels, part);
          }
          t += part.tokens;
        }
      }
      for (int64_t j = 0; j < size; ++j) {
        ASSERT_TRUE(SameBits(together[j], apart[j])) << j << ": " << together[j] << ", apart " << apart[j];
      }
    }
  }
}

// Every set writes what the oracle does, position by position or many at once, and touches nothing else.
TEST(KvWrite, LikeOracle) {
  Random random(7);
  for (int i = 0; i < 100; ++i) {
    AttendShape shape = RandomShape(random);
    shape.first_position %= 200;
    SCOPED_TRACE(ToString(shape));
    AttendProblem problem(shape, random);
    problem.values[0] = NAN;
    problem.keys.back() = INFINITY;
    problem.Write();
    for (const CpuKernels* kernels : FastKernels()) {
      SCOPED_TRACE(kernels->isa);
      GuardedArray<uint32_t> cells(problem.cells().size());
      KvWriteArgs args = {
          .tokens = 1, .k = problem.keys.data(), .v = problem.values.data(), .kv = problem.View()};
      args.kv.layer = reinterpret_cast<std::byte*>(cells.data());
      while (args.first_position < shape.positions()) {
        args.tokens = random.Range(1, shape.positions() - args.first_position);
        kernels->kv_write(args);
        args.first_position += args.tokens;
        args.k += args.tokens * shape.kv_heads * shape.head_dim;
        args.v += args.tokens * shape.kv_heads * shape.head_dim;
      }
      EXPECT_TRUE(cells.FrontIntact());
      for (int64_t c = 0; c < cells.size(); ++c) ASSERT_EQ(cells[c], problem.cells()[c]) << c;
    }
  }
}

}  // namespace
}  // namespace fiddler
