// exp, and the ops that look at one number or one row at a time, for any Simd.
#pragma once

#include "kernels/ops.h"

namespace fiddler {

// exp(x) for x <= 0, all that a stable softmax or sigmoid asks for: 2^n * exp(r), n = round(x / ln 2), |r| <=
// ln 2 / 2, with the polynomial of Cephes' expf. Relative error below 2e-7 while the result is normal;
// exactly 1 at 0; 0 from -104 down to -infinity; NaN stays NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Reg Exp(typename S::Reg x) {
  x = S::Max(S::Set(-104.0f), x);
  const typename S::Reg n = S::Round(S::Mul(x, S::Set(1.44269504f)));
  typename S::Reg r = S::Fma(n, S::Set(-0.693359375f), x);  // ln 2 in two parts: n times the first is exact
  r = S::Fma(n, S::Set(2.12194440e-4f), r);
  typename S::Reg p = S::Set(1.9875691500e-4f);
  p = S::Fma(p, r, S::Set(1.3981999507e-3f));
  p = S::Fma(p, r, S::Set(8.3334519073e-3f));
  p = S::Fma(p, r, S::Set(4.1665795894e-2f));
  p = S::Fma(p, r, S::Set(1.6666665459e-1f));
  p = S::Fma(p, r, S::Set(5.0000001201e-1f));
  p = S::Add(S::Fma(S::Mul(r, r), p, r), S::Set(1.0f));
  return S::TimesPowerOfTwo(p, n);
}

// 2^(x - base) for a whole base, x - base <= 100: 2^r * 2^(n - base), n = round(x), |r| <= 1/2, with
// the polynomial of least relative error (9e-8) among those that are 1 at 0. The bits of the result but for
// its exponent do not depend on base; 0 from x - base = -150 down; NaN stays NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Reg Exp2(typename S::Reg x, typename S::Reg base) {
  const typename S::Reg n = S::Round(x);
  const typename S::Reg r = S::Sub(x, n);  // exact
  typename S::Reg p = S::Set(1.3264729e-3f);
  p = S::Fma(p, r, S::Set(9.6715138e-3f));
  p = S::Fma(p, r, S::Set(5.5507337e-2f));
  p = S::Fma(p, r, S::Set(2.4022242e-1f));
  p = S::Fma(p, r, S::Set(6.9314698e-1f));
  p = S::Fma(p, r, S::Set(1.0f));
  return S::TimesPowerOfTwo(p, S::Sub(n, base));
}

// Where a loop over registers stands: a whole one at offset `begin` of every array, or the last `count`
// elements.
template <class S>
struct WholeRegister {
  int64_t begin;
  typename S::Reg Load(const float* p) const { return S::Load(p + begin); }
  void Store(float* p, typename S::Reg a) const { S::Store(p + begin, a); }
};
template <class S>
struct PartRegister {
  int64_t begin;
  int64_t count;
  typename S::Reg Load(const float* p) const { return S::LoadFirst(p + begin, count); }
  void Store(float* p, typename S::Reg a) const { S::StoreFirst(p + begin, count, a); }
};

// Calls body(at) for each register of [0, n).
template <class S, class Body>
[[gnu::always_inline]] inline void ForEachRegister(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) body(WholeRegister<S>{i});
  if (i < n) body(PartRegister<S>{i, n - i});
}

template <class S>
void RmsNorm(const RmsNormArgs& args) {
  using Reg = typename S::Reg;
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* const x = args.x + r * args.x_stride;
    float* const y = args.y + r * args.y_stride;
    Reg squares = S::Zero();
    ForEachRegister<S>(args.cols, [&](auto at) { squares = S::Fma(at.Load(x), at.Load(x), squares); });
    const float mean = S::Sum(squares) / static_cast<float>(args.cols);
    const Reg scale = S::Set(1.0f / __builtin_sqrtf(mean + args.epsilon));
    ForEachRegister<S>(
        args.cols, [&](auto at) { at.Store(y, S::Mul(S::Mul(at.Load(x), scale), at.Load(args.weight))); });
  }
}

template <class S>
void Rope(const RopeArgs& args) {
  using Reg = typename S::Reg;
  const int64_t half = args.rotary_dim / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* const first = args.x + h * args.head_dim;
    float* const second = first + half;
    ForEachRegister<S>(half, [&](auto at) {
      const Reg a = at.Load(first);
      const Reg b = at.Load(second);
      const Reg cos = at.Load(args.cos);
      const Reg sin = at.Load(args.sin);
      at.Store(first, S::Sub(S::Mul(a, cos), S::Mul(b, sin)));
      at.Store(second, S::Fma(b, cos, S::Mul(a, sin)));
    });
  }
}

// silu(g) * u. silu(g) = g * sigmoid(g), and sigmoid(g) = e / (1 + e) with e = exp(g), or 1 / (1 + exp(-g)):
// the exponent is never positive, so nothing overflows.
template <class S>
[[gnu::always_inline]] inline typename S::Reg SiluTimes(typename S::Reg g, typename S::Reg u) {
  using Reg = typename S::Reg;
  const Reg one = S::Set(1.0f);
  const Reg e = Exp<S>(S::IfNegative(g, g, S::Sub(S::Zero(), g)));
  const Reg sigmoid = S::Div(S::IfNegative(g, e, one), S::Add(one, e));
  return S::Mul(S::Mul(g, sigmoid), u);
}

template <class S>
void Add(int64_t n, const float* x, float* y) {
  ForEachRegister<S>(n, [&](auto at) { at.Store(y, S::Add(at.Load(y), at.Load(x))); });
}

// Eight registers of every row at a time: what lies together is read together.
template <class S>
void AddRows(const AddRowsArgs& args) {
  constexpr int kTogether = 8;
  const typename S::Reg scale = S::Set(args.scale);
  int64_t i = 0;
  for (; i + kTogether * S::kWidth <= args.cols; i += kTogether * S::kWidth) {
    typename S::Reg sums[kTogether];
#pragma GCC unroll 8
    for (int j = 0; j < kTogether; ++j) sums[j] = S::Load(args.x + i + j * S::kWidth);
    for (int64_t r = 1; r < args.rows; ++r) {
      const float* const x = args.x + r * args.x_stride + i;
#pragma GCC unroll 8
      for (int j = 0; j < kTogether; ++j) sums[j] = S::Add(sums[j], S::Load(x + j * S::kWidth));
    }
    float* const y = args.y + i;
#pragma GCC unroll 8
    for (int j = 0; j < kTogether; ++j) {
      S::Store(y + j * S::kWidth, S::Fma(scale, sums[j], S::Load(y + j * S::kWidth)));
    }
  }
  ForEachRegister<S>(args.cols - i, [&](auto at) {
    typename S::Reg sum = at.Load(args.x + i);
    for (int64_t r = 1; r < args.rows; ++r) sum = S::Add(sum, at.Load(args.x + r * args.x_stride + i));
    at.Store(args.y + i, S::Fma(scale, sum, at.Load(args.y + i)));
  });
}

}  // namespace fiddler
