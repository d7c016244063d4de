#include "engine/sliced_ffn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

constexpr int64_t kHidden = 1088;  // 34 panels: column tasks of 2 and of 8

float Uniform(Rng& rng) { return static_cast<float>(rng.NextBits() >> 40) * 0x1p-23F - 1; }

std::vector<float> RandomFloats(int64_t size, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = Uniform(rng);
  return values;
}

// FFNs of random weights; as PackedModel holds them, but of any format each.
class Ffns {
 public:
  const SlicedFfn* Add(WeightFormat format, int64_t intermediate, int64_t slice_neurons) {
    SlicedFfn ffn = {.data = nullptr,
                     .format = format,
                     .hidden = kHidden,
                     .intermediate = intermediate,
                     .slice_neurons = slice_neurons};
    std::byte* const memory = arena_.Allocate(ffn.bytes(), "test").data();
    const auto matrix = [&](int64_t rows, int64_t cols, uint64_t seed) {
      sources_.push_back(RandomFloats(rows * cols, seed));
      return RowMajor{sources_.back().data(), DType::kF32, rows, cols};
    };
    const uint64_t seed = 3 * ffns_.size();
    PackFfn(ffn, matrix(intermediate, kHidden, seed), matrix(intermediate, kHidden, seed + 1),
            matrix(kHidden, intermediate, seed + 2), memory);
    ffn.data = memory;
    ffns_.push_back(ffn);
    return &ffns_.back();
  }

 private:
  HugePageArena arena_;
  std::deque<std::vector<float>> sources_;
  std::deque<SlicedFfn> ffns_;
};

// A runner with room for `tokens` tokens in each of some passes.
class Runner {
 public:
  Runner(const CpuKernels& kernels, int threads, Arithmetic arithmetic, int64_t tokens,
         const std::vector<FfnPass>& passes)
      : pool_(threads, DiscoverTopology()),
        ops_(kernels, pool_, arithmetic, tokens, kHidden, workspace_),
        runner_(Limits(tokens, passes), ops_, workspace_) {}

  std::vector<float> Run(const std::vector<FfnPass>& passes, int64_t tokens, const float* x) {
    std::vector<float> out(static_cast<size_t>(tokens * kHidden), NAN);
    runner_.Run(passes, tokens, x, out.data());
    return out;
  }

 private:
  static SlicedFfnLimits Limits(int64_t tokens, const std::vector<FfnPass>& passes) {
    SlicedFfnLimits limits = {.hidden = kHidden, .tokens = tokens};
    for (const FfnPass& pass : passes) {
      limits.slots += tokens;
      limits.slice_neurons = std::max(limits.slice_neurons, pass.ffn->slice_neurons);
      limits.slot_neurons += tokens * pass.ffn->padded_neurons();
    }
    return limits;
  }

  Workspace workspace_;
  ThreadPool pool_;
  ParallelOps ops_;
  SlicedFfnRunner runner_;
};

std::vector<double> Reference(const SlicedFfn& ffn, const float* x) {
  const auto dot = [](const PackedMatrix& matrix, int64_t row, const auto* values) {
    std::vector<float> weights(static_cast<size_t>(matrix.cols));
    UnpackRow(matrix, row, weights.data());
    return std::inner_product(weights.begin(), weights.end(), values, 0.0);
  };
  std::vector<double> y(static_cast<size_t>(kHidden));
  for (int64_t s = 0; s < ffn.num_slices(); ++s) {
    std::vector<double> h;
    for (int64_t n = 0; n < ffn.slice_neurons; ++n) {
      const double gate = dot(ffn.GateUp(s), n / 16 * 32 + n % 16, x);
      h.push_back(gate / (1 + std::exp(-gate)) * dot(ffn.GateUp(s), n / 16 * 32 + n % 16 + 16, x));
    }
    for (int64_t r = 0; r < kHidden; ++r) y[static_cast<size_t>(r)] += dot(ffn.Down(s), r, h.data());
  }
  return y;
}

// A batch through passes of several formats and sizes: some tokens of some rows, and one pass of all.
struct Batch {
  Batch() {
    std::iota(every_second.begin(), every_second.end(), 0);
    for (int32_t& row : every_second) row *= 2;
    passes = {{.ffn = ffns.Add(WeightFormat::kBF16, 200, 64),
               .tokens = kTokens / 2,
               .token_index = every_second.data(),
               .weights = weights.data()},
              {.ffn = ffns.Add(WeightFormat::kF32, 130, 128), .tokens = kTokens},
              {.ffn = ffns.Add(WeightFormat::kInt8, 64, 64),
               .tokens = 3,
               .token_index = few.data(),
               .weights = weights.data() + 7}};
  }

  // The passes of one row of the batch, as it would be alone.
  std::vector<FfnPass> PassesOf(int64_t row) const {
    std::vector<FfnPass> alone;
    for (const FfnPass& pass : passes) {
      for (int64_t t = 0; t < pass.tokens; ++t) {
        if ((pass.token_index ? pass.token_index[t] : t) != row) continue;
        alone.push_back({.ffn = pass.ffn, .tokens = 1, .weights = pass.weights ? pass.weights + t : nullptr});
      }
    }
    return alone;
  }

  int64_t share_bytes() const {
    int64_t rows = 0;
    for (const FfnPass& pass : passes) rows += pass.tokens * pass.ffn->num_slices();
    return rows * kHidden * static_cast<int64_t>(sizeof(float));
  }

  static constexpr int64_t kTokens = 600;
  Ffns ffns;
  std::vector<float> x = RandomFloats(kTokens * kHidden, 100);
  std::vector<float> weights = RandomFloats(kTokens, 101);
  std::vector<int32_t> every_second = std::vector<int32_t>(kTokens / 2);
  std::vector<int32_t> few = {5, 540, 3};
  std::vector<FfnPass> passes;
};

TEST(SlicedFfnTest, PassesOfSeveralFormatsAddUp) {
  const Batch batch;
  ASSERT_GT(batch.share_bytes(), SlicedFfnRunner::kShareBytes) << "not by columns";
  Runner runner(BestKernels(), 2, Arithmetic::kExact, Batch::kTokens, batch.passes);
  const std::vector<float> out = runner.Run(batch.passes, Batch::kTokens, batch.x.data());
  for (const int64_t row : {0, 1, 3, 5, 540, 599}) {
    std::vector<double> want(static_cast<size_t>(kHidden));
    double magnitude = 0;
    for (const FfnPass& pass : batch.PassesOf(row)) {
      const std::vector<double> y = Reference(*pass.ffn, &batch.x[static_cast<size_t>(row * kHidden)]);
      for (size_t r = 0; r < want.size(); ++r) want[r] += (pass.weights ? *pass.weights : 1.0) * y[r];
    }
    for (const double y : want) magnitude = std::max(magnitude, std::abs(y));
    for (size_t r = 0; r < want.size(); ++r) {
      ASSERT_NEAR(out[static_cast<size_t>(row * kHidden) + r], want[r], 1e-5 * magnitude) << row << " " << r;
    }
  }
}

// The batch runs by columns, a token alone in shares: the same bits, with any kernels and threads.
TEST(SlicedFfnTest, ATokenAloneIsTheTokenInTheBatch) {
  const Batch batch;
  for (const CpuKernels* kernels : SupportedKernels()) {
    for (const Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFast}) {
      Runner runner(*kernels, 3, arithmetic, Batch::kTokens, batch.passes);
      const std::vector<float> out = runner.Run(batch.passes, Batch::kTokens, batch.x.data());
      Runner one(*kernels, 1, arithmetic, Batch::kTokens, batch.passes);
      for (const int64_t row : {0, 1, 5, 314, 540, 599}) {
        const std::vector<float> alone =
            one.Run(batch.PassesOf(row), 1, &batch.x[static_cast<size_t>(row * kHidden)]);
        const auto begin = out.begin() + row * kHidden;
        ASSERT_EQ(alone, std::vector<float>(begin, begin + kHidden)) << kernels->isa << " " << row;
      }
      if (kernels == &BestKernels()) {
        EXPECT_EQ(one.Run(batch.passes, Batch::kTokens, batch.x.data()), out);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
