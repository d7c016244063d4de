// What attend (attend.h) does with a chunk of positions and a run of queries: scores, softmax, values.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/attend_merge.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kv_cells.h"
#include "kernels/cpu/runs.h"
#include "kernels/ops.h"

namespace fiddler {

// Blocks whose scores are computed before their values are added. With one run of queries, one: memory is
// then read in the order it lies in. With more, as many as keep the sums of values in registers for a while.
inline constexpr int kAttendBlocks = 4;

// Queries that share registers, with two registers of sums for each: AVX-512 has room for 12, AVX2 for 6.
template <class S>
inline constexpr int kAttendRows = S::kRegisters == 32 ? 12 : 6;

// Like all structs here without initializers: their constructor would be code that the linker shares
// (tools/check_isa_objects).

// The queries of a run and their softmax so far, in this segment and in those before. q and sums lie behind.
template <class S, class Cells>
struct AttendRun {
  static constexpr int kRows = kAttendRows<S>;

  alignas(64) float totals[kRows][S::kWidth];  // of the weights, relative to 2^base; lanes not yet added
  float base[kRows];                           // or kNoScore
  SoftmaxState before[kRows];
  int64_t position[kRows];  // never falls
  float* out[kRows];
  int rows;
  typename Cells::Factor* q;  // [key_rows][kRows][kPack]
  float* sums;                // [value_runs][kRows][kValueDims]
};

// Bytes of a run with all that lies behind it.
template <class S, class Cells>
[[gnu::always_inline]] inline int64_t AttendRunBytes(const KvLayout& layout) {
  constexpr int64_t kRows = kAttendRows<S>;
  const int64_t q =
      layout.key_rows() * kRows * Cells::kPack * static_cast<int64_t>(sizeof(typename Cells::Factor));
  const int64_t sums =
      layout.value_runs() * kRows * KvLayout::kValueDims * static_cast<int64_t>(sizeof(float));
  return static_cast<int64_t>(sizeof(AttendRun<S, Cells>)) + (q + 63) / 64 * 64 + sums;
}

// Keys and values of positions [first, first + 32 * blocks).
template <class Cells>
struct AttendChunk {
  int64_t first;
  int blocks;
  const typename Cells::Cell* keys[kAttendBlocks];
  const typename Cells::Cell* values[kAttendBlocks];
};

template <class Cells>
[[gnu::always_inline]] inline void FindChunk(const AttendArgs& args, int64_t first, int64_t end,
                                             int max_blocks, AttendChunk<Cells>& chunk) {
  constexpr int64_t kTokens = KvLayout::kBlockTokens;
  const int64_t block = first / kTokens;
  const int64_t blocks = (end - first + kTokens - 1) / kTokens;
  chunk.first = first;
  chunk.blocks = static_cast<int>(blocks < max_blocks ? blocks : max_blocks);
  for (int i = 0; i < kAttendBlocks; ++i) {
    const int64_t b = block + (i < chunk.blocks ? i : 0);
    chunk.keys[i] = reinterpret_cast<const typename Cells::Cell*>(args.kv.Keys(b, args.kv_head));
    chunk.values[i] = reinterpret_cast<const typename Cells::Cell*>(args.kv.Values(b, args.kv_head));
  }
}

[[gnu::always_inline]] inline void PrefetchTwoLines(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  _mm_prefetch(static_cast<const char*>(p) + kCacheLine, _MM_HINT_T0);
}

// Of the chunk, for the queries of a run.
template <class S, class Cells>
struct AttendWeights {
  static constexpr int kPositions = kAttendBlocks * KvLayout::kBlockTokens;
  alignas(64) float scores[kAttendRows<S>][kPositions];
  alignas(64) typename Cells::Factor weights[kAttendRows<S>][kPositions];
  bool moves[kAttendBlocks];                         // does a base move before the block?
  float corrections[kAttendBlocks][kAttendRows<S>];  // if so: what earlier sums are multiplied by
};

// scores[r][i] = scale * q[r] . key of position i, in units of log 2. Fetches the values, which come next.
template <class S, class Cells, int R>
[[gnu::always_inline]] inline void Scores(const AttendArgs& args, const AttendChunk<Cells>& chunk, int blocks,
                                          const AttendRun<S, Cells>& run, AttendWeights<S, Cells>& weights) {
  using Reg = typename S::Reg;
  constexpr int kTokens = KvLayout::kBlockTokens;
  const Reg scale = S::Set(args.scale * 1.44269504f);
  const int64_t key_rows = args.kv.layout.key_rows();
  for (int block = 0; block < blocks; ++block) {
    for (int first = 0; first < kTokens; first += 2 * S::kWidth) {
      Reg sums[R][2];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = S::Zero();
      const typename Cells::Cell* keys = chunk.keys[block] + first;
      const typename Cells::Cell* values = chunk.values[block] + first;
      const typename Cells::Factor* q = run.q;
      for (int64_t i = 0; i < key_rows; ++i) {
        PrefetchTwoLines(values);
        Cells::template MulAdd<R, 2, Cells::kPack>(keys, q, sums);
        keys += kTokens;
        values += kTokens;
        q += kAttendRows<S> * Cells::kPack;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* const out = weights.scores[r] + block * kTokens + first;
        S::Store(out, S::Mul(sums[r][0], scale));
        S::Store(out + S::kWidth, S::Mul(sums[r][1], scale));
      }
    }
  }
}

// Hides the scores of one query that are outside positions [oldest, newest] of the chunk.
template <class S>
[[gnu::always_inline]] inline void HideScores(int64_t oldest, int64_t newest, int count, float* scores) {
  using Reg = typename S::Reg;
  const auto limit = [count](int64_t i) {
    return S::Set(static_cast<float>(i < -1 ? -1 : i > count ? count : i));
  };
  const Reg first = limit(oldest);
  const Reg last = limit(newest);
  const Reg nothing = S::Set(kNoScore);
  Reg index = S::FirstNumbers();
  for (int i = 0; i < count; i += S::kWidth) {
    Reg score = S::Load(scores + i);
    score = S::IfNegative(S::Sub(last, index), nothing, score);
    score = S::IfNegative(S::Sub(index, first), nothing, score);
    S::Store(scores + i, score);
    index = S::Add(index, S::Set(S::kWidth));
  }
}

// Moves the base of one query to its largest score in a block; returns what earlier sums are multiplied by.
template <class S>
[[gnu::noinline]] float MoveBase(const float* scores, float& base) {
  typename S::Reg largest = S::Load(scores);
  for (int i = S::kWidth; i < KvLayout::kBlockTokens; i += S::kWidth) {
    largest = S::Max(largest, S::Load(scores + i));
  }
  const float old = base;
  base = S::First(S::Round(S::Set(S::Largest(largest))));
  return PowerOfTwo<S>(old - base);
}

// Turns the scores of one block into weights, and brings the softmaxes up to date.
template <class S, class Cells, int R>
[[gnu::always_inline]] inline void Softmax(int block, AttendRun<S, Cells>& run,
                                           AttendWeights<S, Cells>& weights) {
  using Reg = typename S::Reg;
  constexpr int kTokens = KvLayout::kBlockTokens;
  constexpr float kMayExceedBase = 8;  // a weight is 2^8.5 at most
  weights.moves[block] = false;
  for (int r = 0; r < R; ++r) {
    const float* const scores = weights.scores[r] + block * kTokens;
    typename Cells::Factor* const out = weights.weights[r] + block * kTokens;
    Reg largest = S::Load(scores);
    for (int i = S::kWidth; i < kTokens; i += S::kWidth) largest = S::Max(largest, S::Load(scores + i));
    if (S::AnyGreater(largest, S::Set(run.base[r] + kMayExceedBase))) {
      if (!weights.moves[block]) {
        for (int i = 0; i < R; ++i) weights.corrections[block][i] = 1;
        weights.moves[block] = true;
      }
      const float correction = MoveBase<S>(scores, run.base[r]);
      weights.corrections[block][r] = correction;
      S::Store(run.totals[r], S::Mul(S::Load(run.totals[r]), S::Set(correction)));
    }
    const Reg base = S::Set(run.base[r] == kNoScore ? 0 : run.base[r]);
    Reg total = S::Load(run.totals[r]);
    for (int i = 0; i < kTokens; i += 2 * S::kWidth) {
      const Reg a = Exp2<S>(S::Load(scores + i), base);
      const Reg b = Exp2<S>(S::Load(scores + i + S::kWidth), base);
      total = Cells::StoreWeights(out + i, a, b, total);
    }
    S::Store(run.totals[r], total);
  }
}

// sums[r] += sum_i weights[r][i] * value of position i, for i below count, block by block; before each the
// sums follow their bases. Fetches the next keys.
template <class S, class Cells, int R>
[[gnu::always_inline]] inline void AddValues(const AttendArgs& args, const AttendChunk<Cells>& chunk,
                                             const AttendChunk<Cells>& next, int count,
                                             const AttendWeights<S, Cells>& weights,
                                             AttendRun<S, Cells>& run) {
  using Reg = typename S::Reg;
  constexpr int kDims = KvLayout::kValueDims;
  constexpr int kTokens = KvLayout::kBlockTokens;
  constexpr int kBlockRows = kTokens / Cells::kPack;
  constexpr int kStride = AttendWeights<S, Cells>::kPositions;
  const int64_t value_runs = args.kv.layout.value_runs();
  for (int64_t d = 0; d < value_runs; ++d) {
    for (int first = 0; first < kDims; first += 2 * S::kWidth) {
      float* const out = run.sums + d * kAttendRows<S> * kDims + first;
      Reg sums[R][2];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        sums[r][0] = S::Load(out + r * kDims);
        sums[r][1] = S::Load(out + r * kDims + S::kWidth);
      }
      for (int block = 0; block * kTokens < count; ++block) {
        if (weights.moves[block]) {
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            const Reg correction = S::Set(weights.corrections[block][r]);
            sums[r][0] = S::Mul(sums[r][0], correction);
            sums[r][1] = S::Mul(sums[r][1], correction);
          }
        }
        const int64_t offset = d * kBlockRows * kDims + first;
        const typename Cells::Cell* values = chunk.values[block] + offset;
        const typename Cells::Cell* keys = next.keys[block] + offset;
        const typename Cells::Factor* factors = weights.weights[0] + block * kTokens;
        const int seen = count - block * kTokens < kTokens ? count - block * kTokens : kTokens;
        for (int i = 0; i < seen / Cells::kPack; ++i) {
          PrefetchTwoLines(keys);
          Cells::template MulAdd<R, 2, kStride>(values, factors, sums);
          values += kDims;
          keys += kDims;
          factors += Cells::kPack;
        }
        // Half a cell, whose other half may hold anything.
        if (seen % Cells::kPack != 0) Cells::template MulAddFirst<R, 2, kStride>(values, factors, sums);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        S::Store(out + r * kDims, sums[r][0]);
        S::Store(out + r * kDims + S::kWidth, sums[r][1]);
      }
    }
  }
}

// One chunk for one run.
template <class S, class Cells, int R>
void AttendToChunk(const AttendArgs& args, const AttendChunk<Cells>& chunk, const AttendChunk<Cells>& next,
                   AttendRun<S, Cells>& run) {
  constexpr int64_t kTokens = KvLayout::kBlockTokens;
  // Indexes in the chunk of what the first and the last query look at.
  const int64_t newest = run.position[R - 1] - chunk.first;
  const int64_t first_newest = run.position[0] - chunk.first;
  const int64_t oldest = args.window > 0 ? first_newest - args.window + 1 : 0;
  const int64_t last_oldest = args.window > 0 ? newest - args.window + 1 : 0;
  if (newest < 0 || oldest >= chunk.blocks * kTokens) return;
  const int64_t end = newest + 1 < chunk.blocks * kTokens ? newest + 1 : chunk.blocks * kTokens;
  const int blocks = static_cast<int>((end + kTokens - 1) / kTokens);
  const int count = static_cast<int>(blocks * kTokens);

  AttendWeights<S, Cells> weights;
  Scores<S, Cells, R>(args, chunk, blocks, run, weights);
  if (first_newest + 1 < count || last_oldest > 0) {
    for (int r = 0; r < R; ++r) {
      const int64_t position = run.position[r] - chunk.first;
      HideScores<S>(args.window > 0 ? position - args.window + 1 : 0, position, count, weights.scores[r]);
    }
  }
  for (int block = 0; block < blocks; ++block) Softmax<S, Cells, R>(block, run, weights);
  AddValues<S, Cells, R>(args, chunk, next, static_cast<int>(end), weights, run);
}

}  // namespace fiddler
