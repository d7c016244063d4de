// attend on CUDA kernels against the oracle's, with the tolerances of kernels/attend_testing.h.
#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>

#include "base/error_testing.h"
#include "device/cuda/op_testing.h"
#include "kernels/attend_testing.h"

namespace fiddler::cuda {
namespace {

using testing::AttendProblem;
using testing::AttendShape;
using testing::GuardedArray;
using testing::Random;
using testing::TestDevice;

// Tokens of one sequence in a batch.
struct Run {
  int64_t first_position;
  int64_t tokens;
};

struct Shape {
  DType dtype = DType::kBF16;
  int64_t kv_heads = 1;
  int64_t group = 1;
  int64_t head_dim = 64;
  int64_t window = 0;
  std::vector<Run> runs = {};

  int64_t width() const { return kv_heads * group * head_dim; }
  int64_t tokens() const {
    int64_t sum = 0;
    for (const Run& run : runs) sum += run.tokens;
    return sum;
  }
};

std::string ToString(const Shape& s) {
  std::string text = fmt::format("{}, {} kv heads x {}, head_dim {}, window {}:", DTypeName(s.dtype),
                                 s.kv_heads, s.group, s.head_dim, s.window);
  for (const Run& run : s.runs) text += fmt::format(" {} from {}", run.tokens, run.first_position);
  return text;
}

// A batch over one cache, in which the blocks of all sequences lie mixed. What nobody wrote is NaN, and so is
// what no token sees for being past its window; the tables hold -1 for blocks of nothing else.
class Problem {
 public:
  explicit Problem(const Shape& shape, uint32_t seed = 1) : shape_(shape) {
    Random random(seed);
    for (const Run& run : shape.runs) {
      parts_.push_back(std::make_unique<AttendProblem>(AttendShape{.tokens = run.tokens,
                                                                   .first_position = run.first_position,
                                                                   .window = shape.window,
                                                                   .group = shape.group,
                                                                   .kv_heads = shape.kv_heads,
                                                                   .head_dim = shape.head_dim,
                                                                   .dtype = shape.dtype},
                                                       random));
      stride_ = std::max(stride_, BlocksOf(run) + random.Range(0, 2));
      cache_blocks_ += BlocksOf(run);
    }
    head_bytes_ = (cache_blocks_ * Layout().bytes() + 63) / 64 * 64 + 64;
    cache_.assign(static_cast<size_t>(shape.kv_heads * head_bytes_ / 4), ~0u);
    tables_.assign(static_cast<size_t>(stride_ * std::ssize(parts_)), -1);
    int64_t block = 0;
    for (size_t s = 0; s < parts_.size(); ++s) Place(s, block);
  }

  const Shape& shape() const { return shape_; }
  ScratchLimits Limits() const {
    return {
        .tokens = shape_.tokens(), .num_heads = shape_.kv_heads * shape_.group, .head_dim = shape_.head_dim};
  }

  // Of tokens [begin, end).
  FiddlerAttend Put(TestDevice& device, int64_t begin, int64_t end) const {
    std::vector<int32_t> positions;
    std::vector<int32_t> sequences;
    std::vector<float> q;
    for (size_t s = 0; s < parts_.size(); ++s) {
      const AttendArgs args = parts_[s]->Args(0, nullptr);
      for (int64_t t = 0; t < shape_.runs[s].tokens; ++t) {
        positions.push_back(static_cast<int32_t>(shape_.runs[s].first_position + t));
        sequences.push_back(static_cast<int32_t>(s));
        q.insert(q.end(), args.q + t * args.q_stride, args.q + t * args.q_stride + shape_.width());
      }
    }
    const auto part = [&](auto values, int64_t each) {
      return device.Put(std::vector(values.begin() + begin * each, values.begin() + end * each));
    };
    return {.batch = {.tokens = end - begin,
                      .positions = part(positions, 1),
                      .sequences = part(sequences, 1),
                      .block_tables = device.Put(tables_),
                      .table_stride = stride_},
            .num_heads = shape_.kv_heads * shape_.group,
            .q = part(q, shape_.width()),
            .out = device.Room((end - begin) * shape_.width()),
            .window = shape_.window,
            .scale = parts_[0]->Args(0, nullptr).scale,
            .padding = 0,
            .kv = {.layer = device.Put(cache_),
                   .head_stride = head_bytes_,
                   .kv_heads = shape_.kv_heads,
                   .head_dim = shape_.head_dim,
                   .dtype = static_cast<int32_t>(shape_.dtype),
                   .padding = 0}};
  }

  std::vector<float> Attended(TestDevice& device, int64_t begin, int64_t end) const {
    const FiddlerAttend args = Put(device, begin, end);
    device->Attend(device.stream(), args);
    return device.Get(args.out, (end - begin) * shape_.width());
  }
  std::vector<float> Attended(TestDevice& device) const { return Attended(device, 0, shape_.tokens()); }

  void ExpectLikeOracle(const std::vector<float>& got) const {
    SCOPED_TRACE(ToString(shape_));
    ASSERT_EQ(std::ssize(got), shape_.tokens() * shape_.width());
    const float* out = got.data();
    for (const auto& part : parts_) {
      GuardedArray<float> expected(part->shape().tokens * part->width());
      for (int64_t h = 0; h < shape_.kv_heads; ++h) {
        const AttendArgs args = part->Args(h, expected.data());
        GenericKernels().attend(args);
        const double tolerance = part->Tolerance(args);
        const int64_t heads_width = shape_.group * shape_.head_dim;
        for (int64_t t = 0; t < args.tokens; ++t) {
          for (int64_t i = h * heads_width; i < (h + 1) * heads_width; ++i) {
            ASSERT_NEAR(out[t * part->width() + i], expected[t * part->width() + i], tolerance)
                << "token " << t << ", KV head " << h << ", element " << i;
          }
        }
      }
      out += part->shape().tokens * part->width();
    }
  }

 private:
  KvLayout Layout() const { return {.dtype = shape_.dtype, .head_dim = shape_.head_dim}; }
  static int64_t BlocksOf(const Run& run) { return (run.first_position + run.tokens + 31) / 32; }

  // The blocks of one sequence in the cache, and where they are in its table.
  void Place(size_t s, int64_t& block) {
    const KvView view = parts_[s]->View();
    const int64_t oldest = shape_.window > 0 ? shape_.runs[s].first_position - shape_.window + 1 : 0;
    for (int64_t b = 0; b < BlocksOf(shape_.runs[s]); ++b) {
      const int64_t index = cache_blocks_ - 1 - block++;
      if ((b + 1) * 32 <= oldest) continue;
      tables_[s * static_cast<size_t>(stride_) + static_cast<size_t>(b)] = static_cast<int32_t>(index);
      for (int64_t h = 0; h < shape_.kv_heads; ++h) {
        std::memcpy(reinterpret_cast<std::byte*>(cache_.data()) + h * head_bytes_ + index * Layout().bytes(),
                    view.Keys(b, h), static_cast<size_t>(Layout().bytes()));
        for (int64_t p = b * 32; p < std::min(oldest, b * 32 + 32); ++p) Forget(index, h, p % 32);
      }
    }
  }

  // Makes what is at a position NaN.
  void Forget(int64_t block, int64_t kv_head, int64_t token) {
    const KvLayout layout = Layout();
    std::byte* const keys =
        reinterpret_cast<std::byte*>(cache_.data()) + kv_head * head_bytes_ + block * layout.bytes();
    std::byte* const values = keys + layout.key_cells() * KvLayout::kCellBytes;
    const auto bytes = static_cast<size_t>(KvLayout::kCellBytes / layout.pack());
    const auto each = static_cast<int64_t>(bytes);
    for (int64_t d = 0; d < layout.head_dim; ++d) {
      std::memset(keys + layout.KeyIndex(token, d) * each, 0xff, bytes);
      std::memset(values + layout.ValueIndex(token, d) * each, 0xff, bytes);
    }
  }

  const Shape shape_;
  std::vector<std::unique_ptr<AttendProblem>> parts_;  // the runs, each with its own cache
  int64_t stride_ = 1;
  int64_t cache_blocks_ = 0;
  int64_t head_bytes_ = 0;
  std::vector<uint32_t> cache_;
  std::vector<int32_t> tables_;
};

void ExpectLikeOracle(const Shape& shape, uint64_t seed = 1, int num_sms = 4) {
  const Problem problem(shape, static_cast<uint32_t>(seed));
  OpDevice device(problem.Limits(), MachineOf(seed), num_sms);
  problem.ExpectLikeOracle(problem.Attended(device));
}

TEST(CudaAttendTest, HeadDims) {
  uint64_t seed = 0;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t head_dim : {1, 2, 3, 5, 8, 16, 24, 32, 64, 80, 96, 128, 192, 256, 300}) {
      ExpectLikeOracle({.dtype = dtype,
                        .kv_heads = 2,
                        .group = 3,
                        .head_dim = head_dim,
                        .runs = {{40, 3}, {0, 1}, {300, 1}}},
                       ++seed);
    }
  }
}

TEST(CudaAttendTest, Random) {
  Random random(7);
  for (uint64_t i = 0; i < 60; ++i) {
    Shape shape = {.dtype = i % 5 == 0 ? DType::kF32 : DType::kBF16,
                   .kv_heads = random.Range(1, 2),
                   .group = random.Pick({1, 1, 2, 4, 8, 12, 16, 20}),
                   .head_dim = random.Pick({8, 64, 64, 64, 96, 128, 128, 256}),
                   .window = random.Pick({0, 0, 0, 1, 7, 32, 33, 100})};
    const int64_t runs = random.Range(1, 4);
    for (int64_t r = 0; r < runs; ++r) {
      shape.runs.push_back({random.Pick({0, 0, 1, 30, 31, 32, 33, 63, 64, 95, 130, 250}),
                            random.Pick({1, 1, 1, 2, 3, 7, 16, 17, 33})});
    }
    ExpectLikeOracle(shape, i, random.Coin() ? 2 : 16);
    if (HasFatalFailure()) return;
  }
}

// Tiles of queries: groups that do not divide them, and that are larger than one.
TEST(CudaAttendTest, Groups) {
  uint64_t seed = 0;
  for (const int64_t group : {1, 2, 4, 5, 8, 12, 16, 17, 20, 64, 70, 130}) {
    for (const int64_t head_dim : {64, 256}) {
      ExpectLikeOracle({.kv_heads = group > 16 ? 1 : 2,
                        .group = group,
                        .head_dim = head_dim,
                        .runs = {{33, 1}, {20, group > 16 ? 4 : 150 / group}, {0, 2}}},
                       ++seed);
    }
  }
}

// Many runs in one tile, more than share it; runs across its 32nd token and across the end of a tile.
TEST(CudaAttendTest, Runs) {
  for (const int64_t group : {1, 4}) {
    Shape shape = {.kv_heads = 2, .group = group, .head_dim = 64};
    for (int64_t r = 0; r < 21; ++r) shape.runs.push_back({r * 7, 1 + r % 3});
    ExpectLikeOracle(shape, 1);
    shape.runs = {{64, 5}, {3, 50}, {100, 1}, {0, 90}, {31, 2}};
    ExpectLikeOracle(shape, 2);
    shape.runs = {{5, 1}, {0, 140 / group}};
    ExpectLikeOracle(shape, 3);
  }
}

TEST(CudaAttendTest, Windows) {
  uint64_t seed = 0;
  for (const int64_t head_dim : {40, 64}) {
    for (const int64_t window : {1, 2, 31, 32, 33, 64, 65, 200}) {
      ExpectLikeOracle({.kv_heads = 1,
                        .group = 4,
                        .head_dim = head_dim,
                        .window = window,
                        .runs = {{150, 1}, {95, 40}, {0, 33}, {31, 1}, {32, 1}, {200, 5}}},
                       ++seed);
    }
  }
}

// Each of the first positions alone: ends of blocks, of splits, and splits that have nothing.
TEST(CudaAttendTest, Positions) {
  for (const int num_sms : {4, 132}) {
    for (const int64_t position : {0, 1, 31, 32, 63, 64, 95, 96, 127, 128, 159, 160, 256}) {
      ExpectLikeOracle({.kv_heads = 2, .group = 4, .head_dim = 64, .runs = {{position, 1}}},
                       static_cast<uint64_t>(position), num_sms);
    }
  }
}

TEST(CudaAttendTest, LongSequences) {
  uint64_t seed = 0;
  for (const int num_sms : {1, 132}) {
    for (const int64_t head_dim : {80, 128}) {
      ExpectLikeOracle({.kv_heads = 2, .group = 4, .head_dim = head_dim, .runs = {{1500, 1}}}, ++seed,
                       num_sms);
      ExpectLikeOracle(
          {.kv_heads = 1, .group = 8, .head_dim = head_dim, .runs = {{1480, 1}, {2, 1}, {600, 30}, {700, 2}}},
          ++seed, num_sms);
    }
  }
}

// More splits than a warp has lanes.
TEST(CudaAttendTest, ManySplits) {
  for (const int64_t head_dim : {8, 64}) {
    ExpectLikeOracle({.kv_heads = 1, .group = 2, .head_dim = head_dim, .runs = {{4700, 1}}}, 1, 132);
  }
  // As many as there is scratch memory for, though more blocks would have a place.
  ExpectLikeOracle({.kv_heads = 1, .group = 64, .head_dim = 64, .runs = {{1270, 13}}}, 1, 132);
}

// In chunks of a few tokens as in one, on kernels of other tiles and splits.
TEST(CudaAttendTest, Chunks) {
  for (const int64_t group : {2, 20}) {
    const Problem problem({.kv_heads = 2, .group = group, .head_dim = 96, .runs = {{45, 60}}});
    for (const int64_t chunk : {1, 7, 32, 59}) {
      OpDevice device(problem.Limits());
      std::vector<float> all;
      for (int64_t begin = 0; begin < 60; begin += chunk) {
        const std::vector<float> some = problem.Attended(device, begin, std::min<int64_t>(60, begin + chunk));
        all.insert(all.end(), some.begin(), some.end());
      }
      problem.ExpectLikeOracle(all);
    }
  }
}

// A segment that is captured once sees the positions of each launch.
TEST(CudaAttendTest, Captured) {
  const Problem problem({.kv_heads = 1, .group = 4, .head_dim = 64, .runs = {{100, 40}}});
  OpDevice device(problem.Limits(), MachineOf(1), 16);
  FiddlerAttend args = problem.Put(device, 0, 1);
  device->BeginCapture(device.stream());
  device->Attend(device.stream(), args);
  const FiddlerSegment segment = device->EndCapture(device.stream());
  std::vector<float> all;
  for (int64_t t = 0; t < 40; ++t) {
    const FiddlerAttend next = problem.Put(device, t, t + 1);
    const auto replace = [&](FiddlerAddress to, FiddlerAddress from, int64_t count) {
      const std::vector<float> words = device.Get(from, count);
      device->CopyIn(device.stream(), to, words.data(), words.size() * sizeof(float));
      device->Synchronize(device.stream());
    };
    replace(args.batch.positions, next.batch.positions, 1);
    replace(args.q, next.q, problem.shape().width());
    device->Launch(device.stream(), segment);
    const std::vector<float> one = device.Get(args.out, problem.shape().width());
    all.insert(all.end(), one.begin(), one.end());
  }
  problem.ExpectLikeOracle(all);
}

// q and out that are only on 4 bytes.
TEST(CudaAttendTest, Unaligned) {
  const Problem problem({.kv_heads = 1, .group = 4, .head_dim = 64, .runs = {{70, 3}}});
  for (const bool q_is : {false, true}) {
    OpDevice device(problem.Limits());
    FiddlerAttend args = problem.Put(device, 0, 3);
    const int64_t count = 3 * problem.shape().width();
    std::vector<float> q = device.Get(args.q, count);
    q.insert(q.begin(), 0.0f);
    FiddlerAddress& moved = q_is ? args.q : args.out;
    moved = device.Put(q) + sizeof(float);
    device->Attend(device.stream(), args);
    problem.ExpectLikeOracle(device.Get(args.out, count));
  }
}

TEST(CudaAttendTest, EverySiteIsNeeded) {
  std::deque<Problem> problems;
  // Splits of warps with several blocks each, merged; two runs, one after another, of one slot.
  problems.emplace_back(Shape{.kv_heads = 1, .group = 4, .head_dim = 256, .runs = {{700, 1}}});
  problems.emplace_back(Shape{.kv_heads = 1, .group = 4, .head_dim = 64, .runs = {{150, 20}, {300, 1}}});
  Shape many = {.kv_heads = 1, .group = 2, .head_dim = 64};
  for (int64_t r = 0; r < 18; ++r) many.runs.push_back({40 * r, 1 + r % 2 * 9});
  problems.emplace_back(many);
  ScratchLimits limits;
  for (const Problem& problem : problems) {
    limits.tokens = std::max(limits.tokens, problem.Limits().tokens);
    limits.num_heads = std::max(limits.num_heads, problem.Limits().num_heads);
    limits.head_dim = std::max(limits.head_dim, problem.Limits().head_dim);
  }
  // only_on_gpus: a warp's lanes leave their sums where its last values were, after the tensor cores, where
  // here all lanes meet.
  ExpectEverySiteIsNeeded(
      [&](OpDevice& device) {
        std::vector<float> all;
        for (const Problem& problem : problems) {
          const std::vector<float> some = problem.Attended(device);
          all.insert(all.end(), some.begin(), some.end());
        }
        return all;
      },
      {.scratch = limits, .num_sms = 4, .only_on_gpus = 1});
}

TEST(CudaAttendTest, Errors) {
  const Problem problem({.kv_heads = 2, .group = 2, .head_dim = 64, .runs = {{900, 1}}});
  const auto error_of = [&](const auto& change) {
    OpDevice device(problem.Limits());
    FiddlerAttend args = problem.Put(device, 0, 1);
    change(args);
    return ErrorOf([&] {
      device->Attend(device.stream(), args);
      device->Synchronize(device.stream());
    });
  };
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.kv.head_dim = 0; }), {"attend", "head_dim"}));
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.kv.dtype = 0; }), {"attend", "type 0"}));
  EXPECT_TRUE(
      testing::Says(error_of([](FiddlerAttend& a) { a.num_heads = 3; }), {"3 heads over 2 KV heads"}));
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.window = -1; }), {"window", "-1"}));
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.batch.tokens = -1; }), {"tokens", "-1"}));
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.batch.table_stride = 0; }), {"table_stride"}));
  EXPECT_TRUE(
      testing::Says(error_of([](FiddlerAttend& a) { a.kv.head_stride = 64; }), {"head_stride", "64"}));
  EXPECT_TRUE(testing::Says(error_of([](FiddlerAttend& a) { a.kv.head_stride += 4; }), {"multiple of 64"}));

  OpDevice small;
  small->SetScratch(small.Room<std::byte>(256), 256);
  EXPECT_TRUE(
      testing::Says(ErrorOf([&] { problem.Attended(small); }), {"attend: scratch: needs", "bytes, has"}));
}

}  // namespace
}  // namespace fiddler::cuda
