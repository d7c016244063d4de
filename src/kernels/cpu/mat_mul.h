// mat_mul for any Simd.
//
// Guarantee. y[t, r] depends on x row t, w row r and bias[r] alone: not on the row range, the number of
// tokens, the gather or the blocking, to the last bit. Every path adds in the same order: lane l of one
// register sums the products of k = l, l + kWidth, ... in rising order, then Sum4 adds the lanes, then comes
// the bias. So a batch equals its tokens alone, and a prompt gives the same in chunks of any size.
//
// One token is bound by memory: rows are read one after the other, as they lie. (Several side by side are
// several streams to the hardware, which reads them at 0.55-0.6 of the speed of one.)
//
// More tokens: tiles of 4 rows x a few tokens whose sums stay in registers. A block of rows stays in L2 and
// is used by one tile of tokens after another, in stretches of k so short that the tile's x, packed, stays in
// L1 (unpacked, rows of x a power of two apart evict each other); unfinished sums wait on the stack.
// Meanwhile the next block is fetched, again as it lies, and the x that is packed next.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/runs.h"
#include "kernels/ops.h"

namespace fiddler {

template <class S, class W>
struct MatMulTile {
  static constexpr int kRows = 4;                                    // what Sum4 adds up
  static constexpr int kTokens = (S::kRegisters - 1) / (kRows + 1);  // sums, x and one w fill the registers
  static constexpr int64_t kStepBytes = kRows * S::kWidth * static_cast<int64_t>(sizeof(W));  // of w

  static constexpr int64_t kPacked = 24 * 1024 / 4;       // floats of x: half of L1
  static constexpr int64_t kBlockBytes = 512 * 1024;      // of w: half of L2
  static constexpr int64_t kBlockRows = 64;               // bounds the unfinished sums (24 KB)
  static constexpr int64_t kNearTokens = 512 * 1024 / 4;  // floats of x that stay in L2 by themselves
};

// Rows of w that all tokens use before the next ones.
struct RowBlock {
  int64_t begin;
  int64_t end;         // at most kBlockRows later
  const char* ahead;   // what to fetch in the meantime: the next block,
  int64_t ahead_step;  // spread over all steps of all tiles
};

// The x of token t.
[[gnu::always_inline]] inline const float* TokenRow(const MatMulArgs& args, int64_t t) {
  return args.x + (args.row_index ? args.row_index[t] : t) * args.x_stride;
}

// y[r] = dots[r] + bias[r] for the first n of kRows rows.
template <class S, class W>
[[gnu::always_inline]] inline void StoreRows(const MatMulArgs& args, int64_t r, int64_t n, __m128 sums,
                                             float* y) {
  float dots[MatMulTile<S, W>::kRows];
  _mm_storeu_ps(dots, sums);
  for (int64_t i = 0; i < n; ++i) y[r + i] = dots[i] + (args.bias ? args.bias[r + i] : 0.0f);
}

// Two rows at a time: one chain of additions alone would not keep up with memory.
template <class S, class W>
void MatMulOneToken(const MatMulArgs& args) {
  constexpr int kRows = MatMulTile<S, W>::kRows;
  constexpr int64_t kPairStep = MatMulTile<S, W>::kStepBytes / 2;
  constexpr int64_t kMinAhead = 8 * 1024;  // bytes; less than 4 KB is too late
  const int64_t cols = args.w.cols;
  const int64_t pair_bytes = 2 * cols * static_cast<int64_t>(sizeof(W));
  const int64_t ahead_bytes = pair_bytes > kMinAhead ? pair_bytes : kMinAhead;
  const float* const x = TokenRow(args, 0);
  for (int64_t r = args.row_begin; r < args.row_end; r += kRows) {
    const int64_t rows = args.row_end - r < kRows ? args.row_end - r : kRows;
    typename S::Reg sums[kRows] = {};
    for (int64_t i = 0; i < rows; i += 2) {
      const W* const w0 = static_cast<const W*>(args.w.data) + (r + i) * cols;
      const W* const w1 = i + 1 < rows ? w0 + cols : w0;
      const char* ahead = reinterpret_cast<const char*>(w0) + ahead_bytes;
      typename S::Reg sum0 = S::Zero();
      typename S::Reg sum1 = S::Zero();
      int64_t k = 0;
      for (; k + S::kWidth <= cols; k += S::kWidth, ahead += kPairStep) {
#pragma GCC unroll 8
        for (int64_t line = 0; line < kPairStep; line += kCacheLine) _mm_prefetch(ahead + line, _MM_HINT_T0);
        const typename S::Reg step = S::Load(x + k);
        sum0 = S::Fma(S::Load(w0 + k), step, sum0);
        sum1 = S::Fma(S::Load(w1 + k), step, sum1);
      }
      if (k < cols) {
        const typename S::Reg step = S::LoadFirst(x + k, cols - k);
        sum0 = S::Fma(S::LoadFirst(w0 + k, cols - k), step, sum0);
        sum1 = S::Fma(S::LoadFirst(w1 + k, cols - k), step, sum1);
      }
      sums[i] = sum0;
      sums[i + 1] = sum1;
    }
    StoreRows<S, W>(args, r, rows, S::Sum4(sums[0], sums[1], sums[2], sums[3]), args.y);
  }
}

// Packs x[t][k], k in [begin, end), as [steps][T][kWidth], with zeros behind the last.
template <class S, int T>
[[gnu::always_inline]] inline void PackTokens(const float* const (&x)[T], int64_t begin, int64_t end,
                                              float* packed) {
  for (int64_t k = begin; k < end; k += S::kWidth) {
    for (int t = 0; t < T; ++t, packed += S::kWidth) {
      S::Store(packed, end - k < S::kWidth ? S::LoadFirst(x[t] + k, end - k) : S::Load(x[t] + k));
    }
  }
}

// Fetches the next `count` floats of each row of x.
template <int T>
[[gnu::always_inline]] inline void FetchTokens(const float* (&x)[T], int64_t count) {
  for (int t = 0; t < T; ++t) {
    const char* const bytes = reinterpret_cast<const char*>(x[t]);
    for (int64_t i = 0; i < 4 * count; i += kCacheLine) _mm_prefetch(bytes + i, _MM_HINT_T1);
    x[t] += count;
  }
}

// Adds w[r][k] * x[t][k], for k in [begin, end), to the lanes of sums[r][t], and fetches what lies ahead.
template <class S, class W, int R, int T>
[[gnu::always_inline]] inline void AddProducts(const W* const (&w)[R], const float* packed, int64_t begin,
                                               int64_t end, RowBlock& block, typename S::Reg (&sums)[R][T]) {
  typename S::Reg x[T];
  int64_t k = begin;
  for (; k + S::kWidth <= end; k += S::kWidth, packed += T * S::kWidth) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < MatMulTile<S, W>::kStepBytes; i += kCacheLine) {
      _mm_prefetch(block.ahead + i, _MM_HINT_T1);
    }
    block.ahead += block.ahead_step;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) x[t] = S::Load(packed + t * S::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename S::Reg row = S::Load(w[r] + k);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = S::Fma(row, x[t], sums[r][t]);
    }
  }
  if (k == end) return;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) x[t] = S::Load(packed + t * S::kWidth);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const typename S::Reg row = S::LoadFirst(w[r] + k, end - k);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[r][t] = S::Fma(row, x[t], sums[r][t]);
  }
}

// T tokens, from `first` on, times a block of rows.
template <class S, class W, int T>
void MatMulTokens(const MatMulArgs& args, int64_t first, RowBlock& block) {
  using Tile = MatMulTile<S, W>;
  constexpr int kRows = Tile::kRows;
  constexpr int64_t kStretch = Tile::kPacked / T / S::kWidth * S::kWidth;
  const int64_t cols = args.w.cols;
  const W* const block_w = static_cast<const W*>(args.w.data) + block.begin * cols;
  const float* x[T];
  for (int t = 0; t < T; ++t) x[t] = TokenRow(args, first + t);
  const bool near = args.tokens * cols <= Tile::kNearTokens;
  const int64_t share = near ? 0 : kStretch * kRows / (block.end - block.begin) + 1;

  alignas(kCacheLine) float packed[kStretch * T];
  alignas(kCacheLine) float unfinished[Tile::kBlockRows * T * S::kWidth];  // [row groups][kRows][T][kWidth]
  int64_t k = 0;
  do {
    const int64_t k_end = cols - k > kStretch ? k + kStretch : cols;
    PackTokens<S, T>(x, k, k_end, packed);
    const float* next_x[T];  // what is packed next: a share of it is fetched with each group of rows
    for (int t = 0; t < T; ++t) {
      const bool more_tokens = first + T + t < args.tokens;
      next_x[t] = k_end < cols ? x[t] + k_end : more_tokens ? TokenRow(args, first + T + t) : x[t];
    }
    float* waiting = unfinished;
    for (int64_t r = block.begin; r < block.end; r += kRows, waiting += kRows * T * S::kWidth) {
      const int64_t rows = block.end - r < kRows ? block.end - r : kRows;
      FetchTokens(next_x, share);
      const W* w[kRows];  // rows past the end repeat the last one; their sums are dropped
      for (int i = 0; i < kRows; ++i) w[i] = block_w + (r - block.begin + (i < rows ? i : rows - 1)) * cols;
      typename S::Reg sums[kRows][T];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          sums[i][t] = k == 0 ? S::Zero() : S::Load(waiting + (i * T + t) * S::kWidth);
        }
      }
      AddProducts<S>(w, packed, k, k_end, block, sums);
      if (k_end < cols) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) S::Store(waiting + (i * T + t) * S::kWidth, sums[i][t]);
        }
        continue;
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        StoreRows<S, W>(args, r, rows, S::Sum4(sums[0][t], sums[1][t], sums[2][t], sums[3][t]),
                        args.y + (first + t) * args.y_stride);
      }
    }
    k = k_end;
  } while (k < cols);
}

template <class S, class W>
void MatMulOfType(const MatMulArgs& args) {
  using Tile = MatMulTile<S, W>;
  if (args.tokens == 0) return;
  if (args.tokens == 1) return MatMulOneToken<S, W>(args);

  const int64_t row_bytes = args.w.cols * static_cast<int64_t>(sizeof(W));
  int64_t block_rows = Tile::kRows;
  while (2 * block_rows <= Tile::kBlockRows && 2 * block_rows * row_bytes <= Tile::kBlockBytes)
    block_rows *= 2;
  const int64_t tiles = (args.tokens + Tile::kTokens - 1) / Tile::kTokens;

  RowBlock block;
  for (block.begin = args.row_begin; block.begin < args.row_end; block.begin = block.end) {
    const bool last = args.row_end - block.begin <= block_rows;
    block.end = last ? args.row_end : block.begin + block_rows;
    block.ahead = static_cast<const char*>(args.w.data) + (last ? block.begin : block.end) * row_bytes;
    block.ahead_step = last ? 0 : (Tile::kStepBytes + tiles - 1) / tiles;
    ForEachRun<Tile::kTokens>(args.tokens, [&](int64_t first, auto size) {
      MatMulTokens<S, W, decltype(size)::kValue>(args, first, block);
    });
  }
}

template <class S>
void MatMul(const MatMulArgs& args) {
  switch (args.w.dtype) {
    case DType::kF32:
      return MatMulOfType<S, float>(args);
    case DType::kF16:
      return MatMulOfType<S, F16>(args);
    case DType::kBF16:
      return MatMulOfType<S, BF16>(args);
    default:
      RejectWeightType(args.w.dtype);
  }
}

}  // namespace fiddler
