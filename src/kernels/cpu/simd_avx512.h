// The vector operations the kernels are written in, in AVX-512 (F, BW, VL, DQ). simd_avx2.h is its twin.
// The anonymous namespace is on purpose: templates over this Simd get internal linkage, so that the linker
// can never take code for this instruction set where an older machine runs (tools/check_isa_objects).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "base/dtype.h"

namespace fiddler {
namespace {

struct Simd {
  using Reg = __m512;
  static constexpr int kWidth = 16;      // floats in a register
  static constexpr int kRegisters = 32;  // how many there are

  static Reg Zero() { return _mm512_setzero_ps(); }
  static Reg Set(float value) { return _mm512_set1_ps(value); }
  static Reg FirstNumbers() {  // 0, 1, ..
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }

  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg Load(const F16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg Load(const BF16* p) { return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

  // The low and the high half of kWidth words, each a BF16; an unsigned field of kWidth words, as floats.
  static Reg LowBF16(const uint32_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
  }
  static Reg HighBF16(const uint32_t* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high));
  }
  static Reg Bits(const uint32_t* p, int shift, int mask) {
    const __m512i field = _mm512_srl_epi32(_mm512_loadu_si512(p), _mm_cvtsi32_si128(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(field, _mm512_set1_epi32(mask)));
  }

  // The first n < kWidth elements, zeros behind them; nothing past them is touched.
  static Reg LoadFirst(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(Mask(n), p); }

  static void Store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
  static void StoreFirst(float* p, int64_t n, Reg a) { _mm512_mask_storeu_ps(p, Mask(n), a); }

  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  static Reg Max(Reg a, Reg b) { return _mm512_max_ps(a, b); }              // b where either is NaN
  static Reg Round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg IfNegative(Reg test, Reg then, Reg otherwise) {  // by the sign bit of test
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(test)), otherwise, then);
  }
  static bool AnyGreater(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static Reg TimesPowerOfTwo(Reg a, Reg exponent) {
    return _mm512_scalef_ps(a, exponent);
  }  // exponent: whole

  static Reg RoundToBF16(Reg a) {  // to nearest, ties to even; NaN stays NaN
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_ps(_mm512_and_si512(quiet, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }

  // The four sums over the lanes, as 4 floats. The order of the additions is fixed by the lane numbers.
  static __m128 Sum4(Reg a, Reg b, Reg c, Reg d) {
    const Reg ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const Reg cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    Reg s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));  // each quarter by itself from here on
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, s));
  }
  static float First(Reg a) { return _mm512_cvtss_f32(a); }
  static float Sum(Reg a) { return _mm_cvtss_f32(Sum4(a, a, a, a)); }
  static float Largest(Reg a) {
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
    return _mm512_cvtss_f32(a);
  }

 private:
  static __mmask16 Mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static Reg Widen(__m256i bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  }
};

}  // namespace
}  // namespace fiddler
