// The vector operations the kernels are written in, in AVX2 with FMA and F16C. simd_avx512.h is its twin, and
// says why the namespace is anonymous.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"

namespace fiddler {
namespace {

struct Simd {
  using Reg = __m256;
  static constexpr int kWidth = 8;       // floats in a register
  static constexpr int kRegisters = 16;  // how many there are

  static Reg Zero() { return _mm256_setzero_ps(); }
  static Reg Set(float value) { return _mm256_set1_ps(value); }
  static Reg FirstNumbers() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }  // 0, 1, ..

  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg Load(const F16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg Load(const BF16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }

  // The low and the high half of kWidth words, each a BF16; an unsigned field of kWidth words, as floats.
  static Reg LowBF16(const uint32_t* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(LoadWords(p), 16)); }
  static Reg HighBF16(const uint32_t* p) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    return _mm256_castsi256_ps(_mm256_and_si256(LoadWords(p), high));
  }
  static Reg Bits(const uint32_t* p, int shift, int mask) {
    const __m256i field = _mm256_srl_epi32(LoadWords(p), _mm_cvtsi32_si128(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(field, _mm256_set1_epi32(mask)));
  }

  // The first n < kWidth elements, zeros behind them; nothing past them is touched.
  static Reg LoadFirst(const float* p, int64_t n) { return _mm256_maskload_ps(p, Mask(n)); }

  static void Store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
  static void StoreFirst(float* p, int64_t n, Reg a) { _mm256_maskstore_ps(p, Mask(n), a); }

  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c
  static Reg Max(Reg a, Reg b) { return _mm256_max_ps(a, b); }              // b where either is NaN
  static Reg Round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg IfNegative(Reg test, Reg then, Reg otherwise) {  // by the sign bit of test
    return _mm256_blendv_ps(otherwise, then, test);
  }
  static bool AnyGreater(Reg a, Reg b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
  // In two halves, so that exponents from -252 reach the subnormals; all below give zero. exponent: whole
  static Reg TimesPowerOfTwo(Reg a, Reg exponent) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_set1_ps(-252.0f), exponent));
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, PowerOfTwo(half)), PowerOfTwo(_mm256_sub_epi32(whole, half)));
  }

  static Reg RoundToBF16(Reg a) {  // to nearest, ties to even; NaN stays NaN
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    const Reg nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_and_ps(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan),
                         _mm256_castsi256_ps(high));
  }

  // The four sums over the lanes, as 4 floats. The order of the additions is fixed by the lane numbers.
  static __m128 Sum4(Reg a, Reg b, Reg c, Reg d) {
    const Reg s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  }
  static float First(Reg a) { return _mm256_cvtss_f32(a); }
  static float Sum(Reg a) { return _mm_cvtss_f32(Sum4(a, a, a, a)); }
  static float Largest(Reg a) {
    a = _mm256_max_ps(a, _mm256_permute2f128_ps(a, a, 1));
    a = _mm256_max_ps(a, _mm256_permute_ps(a, 0x4e));
    a = _mm256_max_ps(a, _mm256_permute_ps(a, 0xb1));
    return _mm256_cvtss_f32(a);
  }

 private:
  static __m256i LoadWords(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i Mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Reg PowerOfTwo(__m256i exponent) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace
}  // namespace fiddler
