// mat_mul and gate_up of every set against the oracle: shapes, ranges, segments, gathers, and that nothing
// beside them is read or written.
#include <gtest/gtest.h>

#include "kernels/dispatch.h"
#include "kernels/product_testing.h"

namespace fiddler {
namespace {

using testing::FastKernels;
using testing::GuardedArray;
using testing::kProductCols;
using testing::Product;
using testing::ProductKind;
using testing::ProductKinds;
using testing::ProductShape;
using testing::Random;
using testing::Untouched;

struct Panels {
  int64_t begin;
  int64_t end;
};

// Runs one call on every set; compares with the oracle inside the panels and looks for writes outside.
void ExpectMatMulLikeOracle(const Product& product, Panels panels, bool bias) {
  const ProductShape& shape = product.shape();
  SCOPED_TRACE(ToString(shape));
  const auto run = [&](const CpuKernels& kernels, const GuardedArray<std::byte>& x, GuardedArray<float>& y) {
    MatMulArgs args = product.MatMul(x, y.data());
    args.panel_begin = panels.begin;
    args.panel_end = panels.end;
    if (bias) args.bias = product.bias().data();
    kernels.mat_mul(args);
  };
  const auto rounded = product.PackedX(GenericKernels());
  const std::vector<double> magnitudes = product.Magnitudes(*rounded);
  GuardedArray<float> expected(product.y_size());
  run(GenericKernels(), *rounded, expected);
  for (const CpuKernels* kernels : FastKernels()) {
    SCOPED_TRACE(fmt::format("{}, panels [{}, {}), bias {}", kernels->isa, panels.begin, panels.end, bias));
    GuardedArray<float> y(product.y_size());
    run(*kernels, *product.PackedX(*kernels), y);
    ASSERT_TRUE(y.FrontIntact());
    for (int64_t i = 0; i < y.size(); ++i) {
      const int64_t t = i / product.y_stride();
      const int64_t r = i % product.y_stride();
      if (r >= shape.rows || r < panels.begin * kPanelRows || r >= panels.end * kPanelRows) {
        ASSERT_TRUE(Untouched(y[i])) << "token " << t << ", row " << r << ": outside the range, written";
        continue;
      }
      const double magnitude =
          magnitudes[static_cast<size_t>(t * shape.rows + r)] + (bias ? std::abs(product.bias()[r]) : 0);
      ASSERT_NEAR(y[i], expected[i], tolerance::Product(shape.cols) * magnitude)
          << "token " << t << ", row " << r;
    }
  }
}

void ExpectMatMulLikeOracle(const Product& product) {
  ExpectMatMulLikeOracle(product, {0, product.num_panels()}, false);
}

void ExpectGateUpLikeOracle(const Product& product, Panels panels) {
  const ProductShape& shape = product.shape();
  SCOPED_TRACE(ToString(shape));
  const auto rounded = product.PackedX(GenericKernels());
  const std::vector<double> magnitudes = product.Magnitudes(*rounded);
  GuardedArray<float> sums(product.y_size());  // the gates and ups themselves
  GenericKernels().mat_mul(product.MatMul(*rounded, sums.data()));
  const auto run = [&](const CpuKernels& kernels, const GuardedArray<std::byte>& x, GuardedArray<float>& h) {
    GateUpArgs args = product.GateUp(x, h.data());
    args.panel_begin = panels.begin;
    args.panel_end = panels.end;
    kernels.gate_up(args);
  };
  GuardedArray<float> expected(product.h_size());
  run(GenericKernels(), *rounded, expected);
  for (const CpuKernels* kernels : FastKernels()) {
    SCOPED_TRACE(fmt::format("{}, panels [{}, {})", kernels->isa, panels.begin, panels.end));
    GuardedArray<float> h(product.h_size());
    run(*kernels, *product.PackedX(*kernels), h);
    ASSERT_TRUE(h.FrontIntact());
    for (int64_t i = 0; i < h.size(); ++i) {
      const int64_t t = i / product.y_stride();
      const int64_t n = i % product.y_stride();
      if (n < panels.begin * 16 || n >= panels.end * 16) {
        ASSERT_TRUE(Untouched(h[i])) << "token " << t << ", neuron " << n << ": outside the range, written";
        continue;
      }
      // How far gate and up may be off, and what that does to silu(gate) * up: silu's slope is at most 1.1.
      const int64_t gate_row = n / 16 * kPanelRows + n % 16;
      const auto off = [&](int64_t r) {
        return tolerance::Product(shape.cols) * magnitudes[static_cast<size_t>(t * shape.rows + r)];
      };
      const double up = std::abs(sums[t * product.y_stride() + gate_row + 16]) + off(gate_row + 16);
      const double silu = std::abs(expected[i]) / std::max(up, 1e-30);
      const double margin = 1.1 * off(gate_row) * up + (silu + 1.1) * off(gate_row + 16) +
                            tolerance::kSilu * std::abs(expected[i]);
      ASSERT_NEAR(h[i], expected[i], margin) << "token " << t << ", neuron " << n;
    }
  }
}

// Every size of a tile, and every way to cut tokens into tiles.
TEST(MatMul, EveryNumberOfTokensLikeOracle) {
  Random random(1);
  for (const ProductKind kind : ProductKinds()) {
    for (int64_t tokens = 1; tokens <= 65; ++tokens) {
      const Product product({kind, random.Range(1, 70), random.Pick(kProductCols), tokens}, random);
      ASSERT_NO_FATAL_FAILURE(ExpectMatMulLikeOracle(product));
    }
  }
}

TEST(MatMul, EveryEdgeOfRowsAndColumnsLikeOracle) {
  Random random(2);
  for (const ProductKind kind : ProductKinds()) {
    for (const int64_t cols : kProductCols) {
      for (const int64_t rows : {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65}) {
        const Product product({kind, rows, cols, random.Pick({1, 1, 2, 3, 8})}, random);
        ASSERT_NO_FATAL_FAILURE(ExpectMatMulLikeOracle(product));
      }
    }
  }
}

TEST(MatMul, RandomCallsLikeOracle) {
  Random random(3);
  for (int i = 0; i < 40; ++i) {
    for (const ProductKind kind : ProductKinds()) {
      Product product(
          {kind, random.Range(1, 200), random.Pick(kProductCols), random.Range(1, 33), random.Range(1, 5)},
          random);
      if (random.Coin()) product.Gather();
      const int64_t begin = random.Range(0, product.num_panels());
      ASSERT_NO_FATAL_FAILURE(
          ExpectMatMulLikeOracle(product, {begin, random.Range(begin, product.num_panels())}, random.Coin()));
    }
  }
}

// Panels that are more than a block (128 KB) each, blocks of several panels, and so many tiles that they are
// cut too (512 KB of x).
TEST(MatMul, SeveralBlocksOfPanelsAndTilesLikeOracle) {
  Random random(4);
  for (const ProductKind kind : ProductKinds()) {
    const auto panels_of_block = [&](int64_t cols) {
      return 128 * 1024 / PackedMatrix{nullptr, kind.format, kPanelRows, cols}.panel_bytes();
    };
    for (const int64_t tokens : {1, 17}) {
      ASSERT_NO_FATAL_FAILURE(ExpectMatMulLikeOracle(Product({kind, 133, 4200, tokens}, random)));
      const int64_t rows = (5 * panels_of_block(330) / 2) * kPanelRows + 5;
      ASSERT_GE(panels_of_block(330), 3);
      ASSERT_NO_FATAL_FAILURE(ExpectMatMulLikeOracle(Product({kind, rows, 330, tokens, 2}, random)));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectMatMulLikeOracle(Product({kind, 70, 2100, 300}, random)));
  }
}

// What comes next is only fetched: it may end anywhere, and changes nothing.
TEST(MatMul, WhatComesNextIsNotRead) {
  Random random(9);
  for (const ProductKind kind : ProductKinds()) {
    for (const int64_t segments : {1, 3}) {
      const Product product({kind, 300, 260, 40, segments}, random);
      GuardedArray<std::byte> end(1);
      for (const CpuKernels* kernels : testing::FastKernels()) {
        const auto x = product.PackedX(*kernels);
        GuardedArray<float> without(product.y_size());
        kernels->mat_mul(product.MatMul(*x, without.data()));
        GuardedArray<float> with(product.y_size());
        MatMulArgs args = product.MatMul(*x, with.data());
        args.next = end.data();
        kernels->mat_mul(args);
        EXPECT_EQ(std::memcmp(without.data(), with.data(), static_cast<size_t>(with.size()) * sizeof(float)),
                  0)
            << kernels->isa;
        EXPECT_TRUE(end.FrontIntact());
      }
    }
  }
}

TEST(MatMul, NothingToDoWritesNothing) {
  Random random(5);
  for (const ProductKind kind : ProductKinds()) {
    const Product product({kind, 70, 20, 3}, random);
    for (const CpuKernels* kernels : testing::FastKernels()) {
      GuardedArray<float> y(product.y_size());
      const auto x = product.PackedX(*kernels);
      MatMulArgs args = product.MatMul(*x, y.data());
      args.panel_begin = args.panel_end = 1;
      kernels->mat_mul(args);
      args = product.MatMul(*x, y.data());
      args.tokens = 0;
      kernels->mat_mul(args);
      EXPECT_TRUE(std::all_of(y.begin(), y.end(), Untouched)) << kernels->isa;
      EXPECT_EQ(kernels->num_tiles(kind.rounding, 0), 0);
    }
  }
}

TEST(GateUp, EveryNumberOfTokensLikeOracle) {
  Random random(6);
  for (const ProductKind kind : ProductKinds()) {
    for (int64_t tokens = 1; tokens <= 65; ++tokens) {
      const Product product({kind, 32 * random.Range(1, 3), random.Pick(kProductCols), tokens}, random);
      ASSERT_NO_FATAL_FAILURE(ExpectGateUpLikeOracle(product, {0, product.num_panels()}));
    }
  }
}

TEST(GateUp, RandomCallsLikeOracle) {
  Random random(7);
  for (int i = 0; i < 40; ++i) {
    for (const ProductKind kind : ProductKinds()) {
      Product product({kind, 32 * random.Range(1, 9), random.Pick({33, 131, 300, 2100}), random.Range(1, 20)},
                      random);
      if (random.Coin()) product.Gather();
      const int64_t begin = random.Range(0, product.num_panels());
      ASSERT_NO_FATAL_FAILURE(
          ExpectGateUpLikeOracle(product, {begin, random.Range(begin, product.num_panels())}));
    }
  }
}

// By the definition: which rows are a neuron's gate and up, and which of them silu is of.
TEST(GateUp, RowsOfNeurons) {
  Random random(8);
  constexpr int64_t kNeurons = 48;
  std::vector<float> weights(2 * kNeurons);
  for (int64_t n = 0; n < kNeurons; ++n) {
    weights[static_cast<size_t>(n / 16 * 32 + n % 16)] = static_cast<float>(n - 20);
    weights[static_cast<size_t>(n / 16 * 32 + 16 + n % 16)] = static_cast<float>(100 + n);
  }
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    Product product({{format, FastRounding(format)}, 2 * kNeurons, 1, 1}, random);
    product.SetWeights(weights);
    product.SetX(0, 0, 0.5f);
    for (const CpuKernels* kernels : SupportedKernels()) {
      GuardedArray<float> h(product.h_size());
      kernels->gate_up(product.GateUp(*product.PackedX(*kernels), h.data()));
      for (int64_t n = 0; n < kNeurons; ++n) {
        const double gate = 0.5 * static_cast<double>(n - 20);
        const double expected = gate / (1 + std::exp(-gate)) * 0.5 * static_cast<double>(100 + n);
        EXPECT_NEAR(h[n], expected, 1e-6 * std::abs(expected)) << kernels->isa << ", neuron " << n;
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
