// Products of CUDA kernels against those of the CPU.
#include "device/cuda/op_testing.h"
#include "device/cuda/products.h"
#include "kernels/product_testing.h"
#include "kernels/rounding.h"

namespace fiddler::cuda {
namespace {

using testing::PackMatrix;
using testing::ProductKind;
using testing::RandomFloats;
using testing::TestDevice;

struct Case {
  ProductKind kind;
  int64_t rows;
  int64_t cols;
  int64_t tokens;
  bool gather = false;
  bool bias = false;
};

std::string ToString(const Case& c) {
  return testing::ToString(testing::ProductShape{c.kind, c.rows, c.cols, c.tokens}) +
         (c.gather ? ", gathered" : "") + (c.bias ? ", bias" : "");
}

// What a case is computed from.
struct Inputs {
  explicit Inputs(const Case& c)
      : x(RandomFloats((c.tokens + 3) * c.cols, 3)),
        bias(RandomFloats(c.rows, 4)),
        w(PackMatrix(c.kind.format, c.rows, c.cols, RandomFloats(c.rows * c.cols, 5))) {
    for (int64_t t = 0; t < c.tokens; ++t) rows.push_back(static_cast<int32_t>(t * 7 % (c.tokens + 3)));
  }
  std::vector<float> x;
  std::vector<float> bias;
  std::vector<std::byte> w;
  std::vector<int32_t> rows;
};

std::vector<float> Multiply(TestDevice& device, const Case& c, const Inputs& in) {
  const FiddlerAddress y = device.Room(c.tokens * c.rows);
  device->MatMul(device.stream(), {.tokens = c.tokens,
                                   .x = device.Put(in.x),
                                   .row_index = c.gather ? device.Put(in.rows) : 0,
                                   .w = {.data = device.Put(in.w),
                                         .rows = c.rows,
                                         .cols = c.cols,
                                         .format = static_cast<int32_t>(c.kind.format),
                                         .padding = 0},
                                   .bias = c.bias ? device.Put(in.bias) : 0,
                                   .y = y,
                                   .rounding = static_cast<int32_t>(c.kind.rounding),
                                   .padding = 0});
  return device.Get(y, c.tokens * c.rows);
}

ScratchLimits LimitsOf(const Case& c) {
  return {.tokens = c.tokens, .cols = c.cols, .slice_neurons = 0, .num_heads = 0, .head_dim = 0};
}

// Both are off by no more than sums of float32 are, relative to sum |x w|.
void ExpectClose(const Case& c, const Inputs& in, const std::vector<float>& got,
                 const std::vector<float>& expected) {
  const PackedMatrix w = {.data = in.w.data(), .format = c.kind.format, .rows = c.rows, .cols = c.cols};
  const int64_t group = RoundingGroup(c.kind.rounding);
  std::vector<float> weights(static_cast<size_t>(c.cols));
  std::vector<float> x = in.x;
  for (int64_t row = 0; row < c.tokens + 3; ++row) {
    for (int64_t col = 0; col < c.cols; col += group) {
      RoundGroup(c.kind.rounding, std::min(group, c.cols - col), x.data() + row * c.cols + col);
    }
  }
  for (int64_t r = 0; r < c.rows; ++r) {
    UnpackRow(w, r, weights.data());
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto at = static_cast<size_t>(t * c.rows + r);
      const float* const row = x.data() + (c.gather ? in.rows[static_cast<size_t>(t)] : t) * c.cols;
      double magnitude = c.bias ? std::abs(in.bias[static_cast<size_t>(r)]) : 0;
      for (int64_t k = 0; k < c.cols; ++k) magnitude += std::abs(row[k] * weights[static_cast<size_t>(k)]);
      ASSERT_NEAR(got[at], expected[at], 2 * tolerance::Product(c.cols) * magnitude)
          << ToString(c) << ": token " << t << " row " << r;
    }
  }
}

void ExpectLikeCpu(const Case& c, uint64_t seed, int num_sms = 4) {
  const Inputs in(c);
  TestDevice cpu;
  OpDevice device(LimitsOf(c), {.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}}, num_sms);
  ExpectClose(c, in, Multiply(device, c, in), Multiply(cpu, c, in));
}

TEST(CudaProductTest, EveryTail) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t cols : testing::kProductCols) ExpectLikeCpu({kind, 33, cols, 3}, ++seed);
    for (const int64_t rows : {1, 31, 32, 64, 70}) {
      ExpectLikeCpu({kind, rows, 96, 2, true, true}, ++seed);
    }
    if (HasFatalFailure()) return;
  }
}

TEST(CudaProductTest, EveryNumberOfTokens) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 32, 40, 64, 65, 130}) {
      ExpectLikeCpu({kind, 70, 200, tokens, tokens % 2 == 0, tokens % 3 == 0}, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

// Rows by four and not, more panels than a tile, columns that end within a block of k, and more of them than
// are on their way at a time.
TEST(CudaProductTest, Tiled) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    if (kind.rounding == Rounding::kNone) continue;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{132, 5}, {131, 33}, {256, 450}, {36, 64}}) {
      ExpectLikeCpu({kind, rows, cols, rows == 256 ? 129 : 100, rows == 131, rows != 131}, ++seed);
      if (HasFatalFailure()) return;
    }
  }
}

// So few panels for so many SMs that k is cut: with each number of warps that have nothing to do.
TEST(CudaProductTest, Splits) {
  uint64_t seed = 0;
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {1, 20}) {
      ExpectLikeCpu({kind, 40, 2500, tokens, false, true}, ++seed, 132);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaProductTest, EnoughBlocks) {
  constexpr int kSms = 132;
  for (const int64_t rows : {64, 128, 256, 512, 1024, 2048, 4096, 8192, 151936}) {
    for (const int64_t k_blocks : {64, 128, 256}) {
      const int64_t panels = rows / kPanelRows;
      const int64_t splits = StreamSplits(panels, k_blocks, kSms);
      EXPECT_LE(splits, 16);
      EXPECT_LE(splits * 16, std::max<int64_t>(16, k_blocks));  // two blocks for each of 8 warps
      if (rows >= 1024 && k_blocks >= 128) {
        EXPECT_GE(panels * splits, kSms * 7 / 8) << rows;
      }
      EXPECT_LT(panels * (splits - 1), kSms) << rows;                      // no more than needed
      EXPECT_LE(splits > 1 ? panels * kPanelRows * splits : 0, 32 * 512);  // device/scratch.h
    }
  }
}

// A number that is not finite spoils its own row only: where a panel's columns end within a block of k, what
// lies behind them, the next panel, is not touched.
TEST(CudaProductTest, PanelsEndWhereTheyEnd) {
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {3, 70}) {
      const Case c = {kind, 64, 33, tokens};
      Inputs in(c);
      std::vector<float> values = RandomFloats(c.rows * c.cols, 5);
      for (int64_t row = 32; row < 64; ++row) values[static_cast<size_t>(row * c.cols)] = INFINITY;
      in.w = PackMatrix(kind.format, c.rows, c.cols, values);
      OpDevice device(LimitsOf(c));
      const std::vector<float> y = Multiply(device, c, in);
      for (int64_t i = 0; i < c.tokens * c.rows; ++i) {
        ASSERT_EQ(std::isfinite(y[static_cast<size_t>(i)]), i % 64 < 32) << ToString(c) << ": " << i;
      }
    }
  }
}

// The same bits whatever the order of threads and blocks.
TEST(CudaProductTest, Deterministic) {
  for (const ProductKind kind : testing::ProductKinds()) {
    for (const int64_t tokens : {5, 70}) {
      const Case c = {kind, 70, 1100, tokens, true, true};
      const Inputs in(c);
      std::vector<float> first;
      for (const uint64_t seed : {1, 2, 3}) {
        OpDevice device(LimitsOf(c), {.seed = seed, .deferred_copies = seed % 2 == 1, .without = {}}, 16);
        const std::vector<float> got = Multiply(device, c, in);
        if (first.empty()) first = got;
        ASSERT_EQ(got, first) << ToString(c);
      }
    }
  }
}

// A product on a machine of the test's own, which says where threads wait.
class PlayedContext final : public OpContext {
 public:
  explicit PlayedContext(emulation::Machine& machine) {
    stream = &machine;
    num_sms = 1;
    scratch = scratch_.data();
    scratch_bytes = kBytes;
  }
  const void* ToDevice(const void*, size_t) override { return nullptr; }  // nothing is that long

 private:
  static constexpr int64_t kBytes = 1 << 20;
  testing::AlignedBytes scratch_{kBytes};
};

// Every place where threads wait for others or for copies: without it the result is wrong, in one order of
// threads or another. The blocks of k are more than a tiled kernel has stages.
TEST(CudaProductTest, EveryWaitIsNeeded) {
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const int64_t tokens : {3, 70}) {
      const Case c = {{format, FastRounding(format)}, 64, 500, tokens};
      const Inputs in(c);
      testing::AlignedBytes w(in.w);
      emulation::Machine machine;
      const auto multiply = [&] {
        PlayedContext context(machine);
        std::vector<float> y(static_cast<size_t>(c.tokens * c.rows));
        MatMul(context, {.tokens = c.tokens,
                         .x = reinterpret_cast<FiddlerAddress>(in.x.data()),
                         .row_index = 0,
                         .w = {.data = reinterpret_cast<FiddlerAddress>(w.data()),
                               .rows = c.rows,
                               .cols = c.cols,
                               .format = static_cast<int32_t>(format),
                               .padding = 0},
                         .bias = 0,
                         .y = reinterpret_cast<FiddlerAddress>(y.data()),
                         .rounding = static_cast<int32_t>(c.kind.rounding),
                         .padding = 0});
        return y;
      };
      const std::vector<float> expected = multiply();
      ASSERT_EQ(machine.sites().size(), tokens == 3 ? 1u : 2u);
      const std::set<emulation::Site> sites = machine.sites();
      for (const emulation::Site& site : sites) {
        int seen = 0;
        for (uint64_t seed = 0; seed < 6; ++seed) {
          machine.options = {.seed = seed, .deferred_copies = true, .without = {}};
          ASSERT_EQ(multiply(), expected);
          machine.options.without = site;
          seen += multiply() != expected;
        }
        EXPECT_GT(seen, 0) << site << " " << FormatName(format);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler::cuda
