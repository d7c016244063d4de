// How the cells of the KV cache (kernels/kv_view.h) are multiplied, for any Simd. A kind of cells has
// - Factor: what the other side of a product is kept as: one number of a query, or one weight;
// - kPack: numbers in a cell, and factors it meets;
// - MulAdd<R, V, kStride>: sums[r][v] += cells[v] . factors[r * kStride ..], for V registers of cells;
// - MulAddFirst: the same for the first number of each cell; the others may be anything;
// - StoreFactors: a register of floats, rounded to the type of the cache, as factors;
// - StoreWeights: two registers of them; returns `total` plus the sum of the rounded, in some lanes.
// The order of the additions to a sum is the same whatever R is.
#pragma once

#include <cstdint>

namespace fiddler {

template <class S>
struct FloatCells {
  using Reg = typename S::Reg;
  using Cell = float;
  using Factor = float;
  static constexpr int kPack = 1;

  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAdd(const Cell* cells, const Factor* factors, Reg (&sums)[R][V]) {
    Reg cell[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) cell[v] = S::Load(cells + v * S::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Reg factor = S::Set(factors[r * kStride]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[r][v] = S::Fma(cell[v], factor, sums[r][v]);
    }
  }
  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAddFirst(const Cell* cells, const Factor* factors,
                                                 Reg (&sums)[R][V]) {
    MulAdd<R, V, kStride>(cells, factors, sums);
  }

  [[gnu::always_inline]] static void StoreFactors(Factor* out, Reg x) { S::Store(out, x); }
  [[gnu::always_inline]] static Reg StoreWeights(Factor* out, Reg a, Reg b, Reg total) {
    S::Store(out, a);
    S::Store(out + S::kWidth, b);
    return S::Add(total, S::Add(a, b));
  }
};

// Pairs of BF16 where no instruction multiplies them: widened to float32, the first of each pair, then the
// second.
template <class S>
struct WidenedBF16Cells {
  using Reg = typename S::Reg;
  using Cell = uint32_t;
  using Factor = float;
  static constexpr int kPack = 2;

  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAdd(const Cell* cells, const Factor* factors, Reg (&sums)[R][V]) {
    MulAddFirst<R, V, kStride>(cells, factors, sums);
    Reg second[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) second[v] = S::HighBF16(cells + v * S::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Reg factor = S::Set(factors[r * kStride + 1]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[r][v] = S::Fma(second[v], factor, sums[r][v]);
    }
  }
  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAddFirst(const Cell* cells, const Factor* factors,
                                                 Reg (&sums)[R][V]) {
    Reg first[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) first[v] = S::LowBF16(cells + v * S::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Reg factor = S::Set(factors[r * kStride]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[r][v] = S::Fma(first[v], factor, sums[r][v]);
    }
  }

  [[gnu::always_inline]] static void StoreFactors(Factor* out, Reg x) { S::Store(out, S::RoundToBF16(x)); }
  [[gnu::always_inline]] static Reg StoreWeights(Factor* out, Reg a, Reg b, Reg total) {
    return FloatCells<S>::StoreWeights(out, S::RoundToBF16(a), S::RoundToBF16(b), total);
  }
};

}  // namespace fiddler
