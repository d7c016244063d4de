// The cores that AVX-512 BF16 and VNNI make for BF16, INT8 and INT4 weights: one instruction multiplies a
// pair of BF16, or four bytes, in each lane. And the packing of x for them.
//
//   BF16        x as [pairs][T] words of two BF16
//   INT8, INT4  x as, for each group, [T] float scales, [T] int32 that take the offset of the weights' bytes
//               out (-128 or -8 times the sum of the group's x), then [quads][T] words of four int8
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/pack_f32.h"
#include "kernels/cpu/panel.h"

namespace fiddler {

template <class SimdType>
struct BF16Core {
  using S = SimdType;
  static constexpr int kVectors = kPanelRows / S::kWidth;
  static constexpr int kColumnBytes = 2;
  static constexpr int64_t kChunkGroups = 16;
  static constexpr int kMaxTokens = 13;  // 26 sums, two registers of weights, some of x
  static constexpr GroupLayout kGroup = LayoutOf(WeightFormat::kBF16);

  template <int T>
  [[gnu::always_inline]] static void Run(const std::byte* w, const std::byte* x, int64_t groups, Ahead& ahead,
                                         __m512 (&sums)[kVectors][T]) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sums[0][t] = sums[1][t] = _mm512_setzero_ps();
    const auto* pairs = reinterpret_cast<const int*>(x);
    for (int64_t g = 0; g < groups; ++g, w += kGroup.bytes, pairs += T) {
      if constexpr (T > 1) {
        if (g % kChunkGroups == 0) ahead.Fetch();
        FetchStream<2>(w);
      }
      const auto low = reinterpret_cast<__m512bh>(_mm512_load_si512(w));
      const auto high = reinterpret_cast<__m512bh>(_mm512_load_si512(w + kCacheLine));
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pairs[t]));
        sums[0][t] = _mm512_dpbf16_ps(sums[0][t], low, pair);
        sums[1][t] = _mm512_dpbf16_ps(sums[1][t], high, pair);
      }
    }
  }
};

template <class SimdType, WeightFormat format>
struct Int8Core {
  using S = SimdType;
  static constexpr int kVectors = kPanelRows / S::kWidth;
  static constexpr int kColumnBytes = 1;
  static constexpr int64_t kChunkGroups = 1;
  // 12 sums of a group, 12 of all, two registers each of weights and scales.
  static constexpr int kMaxTokens = 6;
  static constexpr GroupLayout kGroup = LayoutOf(format);
  static constexpr int64_t kQuads = kGroup.cols / 4;
  // For one token the hardware reads ahead well enough (BF16 too), but not where half the bytes are to be
  // unpacked: 0.60 without, 0.83 of a plain read of 70 GB/s with it.
  template <int T>
  static constexpr bool kFetches = T > 1 || format == WeightFormat::kInt4;

  template <int T>
  [[gnu::always_inline]] static void AddQuad(__m512i low, __m512i high, const int* quads,
                                             __m512i (&sums)[kVectors][T]) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i quad = _mm512_set1_epi32(quads[t]);
      sums[0][t] = _mm512_dpbusd_epi32(sums[0][t], low, quad);
      sums[1][t] = _mm512_dpbusd_epi32(sums[1][t], high, quad);
    }
  }

  template <int T>
  [[gnu::always_inline]] static void Run(const std::byte* w, const std::byte* x, int64_t groups, Ahead& ahead,
                                         __m512 (&sums)[kVectors][T]) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sums[0][t] = sums[1][t] = _mm512_setzero_ps();
    const auto* words = reinterpret_cast<const int*>(x);
    for (int64_t g = 0; g < groups; ++g) {
      if constexpr (T > 1) ahead.Fetch();
      if constexpr (kFetches<T>) FetchStream<1>(w);
      const __m512 low_scale = S::Load(reinterpret_cast<const BF16*>(w));
      const __m512 high_scale = S::Load(reinterpret_cast<const BF16*>(w) + S::kWidth);
      w += kPanelRows * sizeof(BF16);
      const auto* const scales = reinterpret_cast<const float*>(words);
      words += T;
      __m512i group[kVectors][T];
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) group[0][t] = group[1][t] = _mm512_set1_epi32(words[t]);
      words += T;
      if constexpr (format == WeightFormat::kInt8) {
#pragma GCC unroll 16
        for (int64_t quad = 0; quad < kQuads; ++quad, w += kPanelRows * 4, words += T) {
          if constexpr (kFetches<T>) FetchStream<2>(w);
          AddQuad<T>(_mm512_load_si512(w), _mm512_load_si512(w + kCacheLine), words, group);
        }
      } else {
        const __m512i halves = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < kQuads / 2; ++pair, w += kPanelRows * 4, words += 2 * T) {
          if constexpr (kFetches<T>) FetchStream<2>(w);
          const __m512i low = _mm512_load_si512(w);
          const __m512i high = _mm512_load_si512(w + kCacheLine);
          AddQuad<T>(_mm512_and_si512(low, halves), _mm512_and_si512(high, halves), words, group);
          AddQuad<T>(_mm512_and_si512(_mm512_srli_epi16(low, 4), halves),
                     _mm512_and_si512(_mm512_srli_epi16(high, 4), halves), words + T, group);
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const __m512 scale = _mm512_set1_ps(scales[t]);
        sums[0][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(group[0][t]), _mm512_mul_ps(low_scale, scale), sums[0][t]);
        sums[1][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(group[1][t]), _mm512_mul_ps(high_scale, scale), sums[1][t]);
      }
    }
  }
};

// Rows to columns: in four steps, each of which doubles the blocks that stand where they belong.
[[gnu::always_inline]] inline void Transpose16(__m512i (&r)[16]) {
  __m512i s[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {  // 2 x 2 words
    s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // columns 4 q + j of 4 rows, in quarter q of r[i + j]
    r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // quarters 0 and 1, then 2 and 3, of 8 rows
    s[j] = _mm512_shuffle_i32x4(r[j], r[j + 4], 0x44);
    s[j + 4] = _mm512_shuffle_i32x4(r[j], r[j + 4], 0xee);
    s[j + 8] = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0x44);
    s[j + 12] = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // one quarter of 16 rows
    r[j] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0x88);
    r[j + 4] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0xdd);
    r[j + 8] = _mm512_shuffle_i32x4(s[j + 4], s[j + 12], 0x88);
    r[j + 12] = _mm512_shuffle_i32x4(s[j + 4], s[j + 12], 0xdd);
  }
}

// Stores the first `count` words of each of T tokens as [count][T].
template <int T>
[[gnu::always_inline]] inline void StoreTransposed(const __m512i (&rows)[T], int count, uint32_t* out) {
  if constexpr (T == 1) {
    _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << count) - 1u), rows[0]);
  } else {
    __m512i words[16];
#pragma GCC unroll 16
    for (int t = 0; t < 16; ++t) words[t] = t < T ? rows[t < T ? t : 0] : _mm512_setzero_si512();
    Transpose16(words);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i < count) _mm512_mask_storeu_epi32(out + i * T, static_cast<__mmask16>((1u << T) - 1u), words[i]);
    }
  }
}

// 16 columns of x from k on, zeros past the last.
template <class S>
[[gnu::always_inline]] inline __m512 LoadColumns(const float* x, int64_t k, int64_t cols) {
  if (k + S::kWidth <= cols) return S::Load(x + k);
  return k < cols ? S::LoadFirst(x + k, cols - k) : S::Zero();
}

template <class S>
void PackBF16(const PackArgs& args) {
  const int64_t token_bytes = PackedTokenBytes(args.cols);
  ForEachTile<BF16Core<S>>(args.tokens, args.tile_begin, args.tile_end, [&](int64_t first, auto size) {
    constexpr int kTile = decltype(size)::kValue;
    auto* pairs = reinterpret_cast<uint32_t*>(args.packed + first * token_bytes);
    const float* x[kTile];
    for (int t = 0; t < kTile; ++t) x[t] = PackedRow(args, first + t);
    for (int64_t k = 0; k < args.cols; k += 32, pairs += 16 * kTile) {
      __m512i rows[kTile];
#pragma GCC unroll 16
      for (int t = 0; t < kTile; ++t) {
        rows[t] = reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(LoadColumns<S>(x[t], k + 16, args.cols), LoadColumns<S>(x[t], k, args.cols)));
      }
      StoreTransposed<kTile>(rows, 16, pairs);
    }
  });
}

// One group of one token: `kWords` words of int8, zeros behind them.
template <class S, int kGroupCols>
struct Int8Group {
  Int8Scale scale;
  int32_t sum;
  __m512i words;

  [[gnu::always_inline]] static Int8Group Of(const float* x, int64_t k, int64_t cols) {
    constexpr int kVectors = kGroupCols / S::kWidth;
    __m512 values[kVectors];
    __m512i largest = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      values[i] = LoadColumns<S>(x, k + i * S::kWidth, cols);
      largest = _mm512_max_epu32(
          largest, _mm512_and_si512(_mm512_castps_si512(values[i]), _mm512_set1_epi32(0x7fffffff)));
    }
    Int8Group group;
    group.scale = Int8Scale::Of(_mm512_reduce_max_epu32(largest));
    __m512i sum = _mm512_setzero_si512();
    alignas(kCacheLine) __m128i bytes[4] = {};
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(values[i], _mm512_set1_ps(group.scale.inverse)));
      sum = _mm512_add_epi32(sum, q);
      bytes[i] = _mm512_cvtsepi32_epi8(q);
    }
    group.sum = _mm512_reduce_add_epi32(sum);
    group.words = _mm512_load_si512(bytes);
    return group;
  }
};

template <class S, WeightFormat format>
void PackInt8(const PackArgs& args) {
  constexpr int kGroupCols = static_cast<int>(LayoutOf(format).cols);
  constexpr int kOffset = format == WeightFormat::kInt8 ? 128 : 8;
  const int64_t token_bytes = PackedTokenBytes(args.cols);
  ForEachTile<Int8Core<S, format>>(
      args.tokens, args.tile_begin, args.tile_end, [&](int64_t first, auto size) {
        constexpr int kTile = decltype(size)::kValue;
        auto* out = reinterpret_cast<uint32_t*>(args.packed + first * token_bytes);
        const float* x[kTile];
        for (int t = 0; t < kTile; ++t) x[t] = PackedRow(args, first + t);
        for (int64_t k = 0; k < args.cols; k += kGroupCols, out += kGroupCols / 4 * kTile) {
          __m512i rows[kTile];
          for (int t = 0; t < kTile; ++t) {
            const auto group = Int8Group<S, kGroupCols>::Of(x[t], k, args.cols);
            const int32_t offset = -kOffset * group.sum;
            std::memcpy(out + t, &group.scale.scale, sizeof(float));
            std::memcpy(out + kTile + t, &offset, sizeof(offset));
            rows[t] = group.words;
          }
          out += 2 * kTile;
          StoreTransposed<kTile>(rows, kGroupCols / 4, out);
        }
      });
}

}  // namespace fiddler
