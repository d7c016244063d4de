// Pairs of BF16 for machines with AVX512_BF16: one instruction multiplies both numbers of 16 cells and adds
// them to float32 sums. (It takes numbers below 2^-126 for zero.)
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/simd_avx512.h"

namespace fiddler {
namespace {

struct NativeBF16Cells {
  using Reg = __m512;
  using Cell = uint32_t;
  using Factor = uint16_t;  // the bits
  static constexpr int kPack = 2;

  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAdd(const Cell* cells, const Factor* factors, Reg (&sums)[R][V]) {
    MulAddMasked<R, V, kStride>(cells, factors, sums, [](__m512i cell) { return cell; });
  }
  template <int R, int V, int kStride>
  [[gnu::always_inline]] static void MulAddFirst(const Cell* cells, const Factor* factors,
                                                 Reg (&sums)[R][V]) {
    MulAddMasked<R, V, kStride>(
        cells, factors, sums, [](__m512i cell) { return _mm512_and_si512(cell, _mm512_set1_epi32(0xffff)); });
  }

  [[gnu::always_inline]] static void StoreFactors(Factor* out, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(x));
  }
  [[gnu::always_inline]] static Reg StoreWeights(Factor* out, Reg a, Reg b, Reg total) {
    const __m512bh weights = _mm512_cvtne2ps_pbh(b, a);
    _mm512_storeu_si512(out, (__m512i)weights);
    return _mm512_dpbf16_ps(total, weights, (__m512bh)_mm512_set1_epi16(0x3f80));  // times one
  }

 private:
  template <int R, int V, int kStride, class Mask>
  [[gnu::always_inline]] static void MulAddMasked(const Cell* cells, const Factor* factors, Reg (&sums)[R][V],
                                                  const Mask& mask) {
    __m512bh cell[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) cell[v] = (__m512bh)mask(_mm512_loadu_si512(cells + v * Simd::kWidth));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, factors + r * kStride, sizeof(pair));
      const __m512bh factor = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], cell[v], factor);
    }
  }
};

}  // namespace
}  // namespace fiddler
