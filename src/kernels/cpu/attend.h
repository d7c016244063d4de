// attend for any Simd: softmax on line (arXiv 1805.02867) over chunks of positions, for a batch of queries at
// a time, so that each key and value is read once per batch.
//
// Guarantee. The result of a query depends on the query and the keys and values it may look at alone: not on
// the other tokens of the call, nor on how the positions lie in blocks, to the last bit (given finite keys
// and values). Chunks are aligned to positions, the order within one is fixed, and one that a query may not
// look at leaves it as it was.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/runs.h"
#include "kernels/ops.h"

namespace fiddler {

template <class S>
struct AttendTile {
  static constexpr int kKeys = 4;                                     // what Sum4 adds up
  static constexpr int kQueries = (S::kRegisters - 1) / (kKeys + 1);  // times kKeys scores, in registers
  static constexpr int kOutQueries = 4;                               // times OutRegisters() sums of values
  static constexpr int OutRegisters(int queries) {
    const int registers = S::kRegisters / 2 / queries;
    return registers < 8 ? registers : 8;
  }
};

// Like all structs here without initializers: their constructor would be code that the linker shares
// (tools/check_isa_objects).

// Where the keys and values of positions [first, first + count) are; past those, the last once more.
struct AttendChunk {
  static constexpr int kPositions = 32;  // their keys, and their values, of a head of 128 are 16 KB: L1
  int64_t first;
  int count;
  const float* keys[kPositions];
  const float* values[kPositions];
};

// The queries of a batch and the state of each softmax; out holds the sum of values so far.
struct AttendBatch {
  static constexpr int kQueries = 32;
  int queries;
  const float* q[kQueries];
  float* out[kQueries];
  int64_t position[kQueries];
  float largest[kQueries];     // score so far
  float total[kQueries];       // of the weights so far, relative to exp(largest)
  float correction[kQueries];  // what this chunk multiplies earlier sums by
  alignas(64) float weights[kQueries][AttendChunk::kPositions];  // scores, then weights, of this chunk
};

template <class S>
void FindChunk(const AttendArgs& args, int64_t first, int64_t end, AttendChunk& chunk) {
  const KvView& kv = args.kv;
  chunk.first = first;
  chunk.count =
      static_cast<int>(end - first < AttendChunk::kPositions ? end - first : AttendChunk::kPositions);
  int64_t block = first / kv.block_tokens;
  int64_t row = first % kv.block_tokens;
  for (int i = 0; i < AttendChunk::kPositions; ++i) {
    chunk.keys[i] = kv.Keys(block, args.kv_head) + row * kv.head_dim;
    chunk.values[i] = kv.Values(block, args.kv_head) + row * kv.head_dim;
    if (i + 1 >= chunk.count) continue;
    if (++row == kv.block_tokens) {
      row = 0;
      ++block;
    }
  }
}

[[gnu::always_inline]] inline void Prefetch(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}

// weights[query][i] = scale * q . keys[i]. Fetches the values, which come next.
template <class S, int T>
[[gnu::always_inline]] inline void Scores(const AttendArgs& args, const AttendChunk& chunk, int64_t first,
                                          AttendBatch& batch) {
  constexpr int kKeys = AttendTile<S>::kKeys;
  const float* const* const q = batch.q + first;
  const __m128 scale = _mm_set1_ps(args.scale);
  for (int i = 0; i < chunk.count; i += kKeys) {
    const float* const* const keys = chunk.keys + i;
    const float* const* const values = chunk.values + i;
    typename S::Reg sums[kKeys][T];
#pragma GCC unroll 8
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[j][t] = S::Zero();
    }
    ForEachRegister<S>(args.kv.head_dim, [&](auto at) {
      typename S::Reg qs[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) qs[t] = at.Load(q[t]);
#pragma GCC unroll 8
      for (int j = 0; j < kKeys; ++j) {
        Prefetch(values[j] + at.begin);
        const typename S::Reg key = at.Load(keys[j]);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[j][t] = S::Fma(key, qs[t], sums[j][t]);
      }
    });
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m128 dots = S::Sum4(sums[0][t], sums[1][t], sums[2][t], sums[3][t]);
      _mm_storeu_ps(batch.weights[first + t] + i, _mm_mul_ps(dots, scale));
    }
  }
}

// Turns the scores of one query into weights, and brings its softmax up to date.
template <class S>
[[gnu::always_inline]] inline void Softmax(const AttendArgs& args, const AttendChunk& chunk, int query,
                                           AttendBatch& batch) {
  using Reg = typename S::Reg;
  constexpr int kPositions = AttendChunk::kPositions;
  constexpr float kInfinity = __builtin_inff();
  float* const weights = batch.weights[query];
  const int64_t last = batch.position[query] - chunk.first;  // index of the last position it may look at
  for (int64_t i = last < 0 ? 0 : last + 1; i < kPositions; ++i) weights[i] = -kInfinity;
  if (args.window > 0) {
    for (int64_t i = 0; i < kPositions && i <= last - args.window; ++i) weights[i] = -kInfinity;
  }

  Reg largest = S::Set(batch.largest[query]);
  for (int i = 0; i < kPositions; i += S::kWidth) largest = S::Max(largest, S::Load(weights + i));
  const float new_largest = S::Largest(largest);
  const Reg base = S::Set(new_largest == -kInfinity ? 0.0f : new_largest);
  Reg sum = S::Zero();
  for (int i = 0; i < kPositions; i += S::kWidth) {
    const Reg weight = Exp<S>(S::Sub(S::Load(weights + i), base));
    S::Store(weights + i, weight);
    sum = S::Add(sum, weight);
  }
  const float correction = S::First(Exp<S>(S::Sub(S::Set(batch.largest[query]), base)));
  batch.correction[query] = correction;
  batch.total[query] = batch.total[query] * correction + S::Sum(sum);
  batch.largest[query] = new_largest;
}

// out[query] = out[query] * correction + sum_i weights[query][i] * values[i], for D registers of the head
// from d on; of the last register only the first `lanes` lanes exist. Fetches the next keys.
template <class S, int T, int D>
[[gnu::always_inline]] inline void AddValues(const AttendChunk& chunk, const AttendChunk& next, int64_t first,
                                             int64_t d, int64_t lanes, AttendBatch& batch) {
  const auto load = [lanes](const float* p, int v) {
    return v + 1 < D || lanes == S::kWidth ? S::Load(p + v * S::kWidth)
                                           : S::LoadFirst(p + v * S::kWidth, lanes);
  };
  typename S::Reg sums[T][D];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int v = 0; v < D; ++v) {
      sums[t][v] = S::Mul(load(batch.out[first + t] + d, v), S::Set(batch.correction[first + t]));
    }
  }
  for (int i = 0; i < chunk.count; ++i) {
    typename S::Reg values[D];
#pragma GCC unroll 8
    for (int v = 0; v < D; ++v) {
      Prefetch(next.keys[i] + d + v * S::kWidth);
      values[v] = load(chunk.values[i] + d, v);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const typename S::Reg weight = S::Set(batch.weights[first + t][i]);
#pragma GCC unroll 8
      for (int v = 0; v < D; ++v) sums[t][v] = S::Fma(weight, values[v], sums[t][v]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int v = 0; v < D; ++v) {
      float* const out = batch.out[first + t] + d + v * S::kWidth;
      if (v + 1 < D || lanes == S::kWidth) {
        S::Store(out, sums[t][v]);
      } else {
        S::StoreFirst(out, lanes, sums[t][v]);
      }
    }
  }
}

template <class S>
void AttendTogether(const AttendArgs& args, AttendBatch& batch) {
  using Tile = AttendTile<S>;
  const int64_t dim = args.kv.head_dim;
  for (int i = 0; i < batch.queries; ++i) {
    batch.largest[i] = -__builtin_inff();
    batch.total[i] = 0;
    for (int64_t d = 0; d < dim; ++d) batch.out[i][d] = 0;
  }

  const int64_t oldest = args.window > 0 ? batch.position[0] - args.window + 1 : 0;
  const int64_t end = batch.position[batch.queries - 1] + 1;
  int64_t position = oldest > 0 ? oldest / AttendChunk::kPositions * AttendChunk::kPositions : 0;
  AttendChunk chunk;
  AttendChunk next;
  FindChunk<S>(args, position, end, next);
  while (position < end) {
    chunk = next;
    position += chunk.count;
    if (position < end) FindChunk<S>(args, position, end, next);
    ForEachRun<Tile::kQueries>(batch.queries, [&](int64_t first, auto size) {
      Scores<S, decltype(size)::kValue>(args, chunk, first, batch);
    });
    for (int i = 0; i < batch.queries; ++i) Softmax<S>(args, chunk, i, batch);
    ForEachRun<Tile::kOutQueries>(batch.queries, [&](int64_t first, auto size) {
      constexpr int kSize = decltype(size)::kValue;
      constexpr int kWide = Tile::OutRegisters(kSize);
      int64_t d = 0;
      for (; d + kWide * S::kWidth <= dim; d += kWide * S::kWidth) {
        AddValues<S, kSize, kWide>(chunk, next, first, d, S::kWidth, batch);
      }
      for (; d < dim; d += S::kWidth) {
        AddValues<S, kSize, 1>(chunk, next, first, d, dim - d < S::kWidth ? dim - d : S::kWidth, batch);
      }
    });
  }

  for (int i = 0; i < batch.queries; ++i) {
    float* const out = batch.out[i];
    const typename S::Reg scale = S::Set(1.0f / batch.total[i]);
    ForEachRegister<S>(dim, [&](auto at) { at.Store(out, S::Mul(at.Load(out), scale)); });
  }
}

template <class S>
void Attend(const AttendArgs& args) {
  AttendBatch batch;
  const int64_t queries = args.tokens * args.group;  // query i is head i % group of token i / group
  for (int64_t first = 0; first < queries; first += AttendBatch::kQueries) {
    const int64_t left = queries - first;
    batch.queries = static_cast<int>(left < AttendBatch::kQueries ? left : AttendBatch::kQueries);
    for (int i = 0; i < batch.queries; ++i) {
      const int64_t token = (first + i) / args.group;
      const int64_t offset = (args.kv_head * args.group + (first + i) % args.group) * args.kv.head_dim;
      batch.q[i] = args.q + token * args.q_stride + offset;
      batch.out[i] = args.out + token * args.out_stride + offset;
      batch.position[i] = args.first_position + token;
    }
    AttendTogether<S>(args, batch);
  }
}

}  // namespace fiddler
