// The limits of a core, for any Simd: FMAs on registers, and reading memory.
#pragma once

#include <cstdint>

namespace fiddler {

// A number of independent chains of an instruction, enough to fill two units of its latency: calls
// step(chain) `rounds` times for each of them. The empty asm keeps compilers from seeing through it.
template <int kChains, class Reg, class Step>
[[gnu::always_inline]] inline void RunChains(int64_t rounds, Reg (&chains)[kChains], const Step& step) {
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      chains[i] = step(chains[i]);
      asm volatile("" : "+v"(chains[i]));
    }
  }
}

template <class S>
double F32Probe(int64_t rounds) {
  constexpr int kChains = 10;  // latency 4
  typename S::Reg chains[kChains];
  const typename S::Reg factor = S::Set(0.999f);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = S::Set(static_cast<float>(i));
  RunChains(
      rounds, chains, [&](typename S::Reg chain) __attribute__((always_inline)) {
        return S::Fma(chain, factor, factor);
      });
  return 2.0 * kChains * S::kWidth * static_cast<double>(rounds);
}

// Reads four pages at a time, which on Zen 5 is 3% faster than one line after another, with two or sixteen
// sums, with prefetches or without (75 of 72 GB/s on two cores).
template <class S>
float ReadProbe(int64_t n, const float* data) {
  constexpr int kPages = 4;
  constexpr int kTogether = 2;     // registers of a page
  constexpr int64_t kPage = 1024;  // floats
  typename S::Reg sums[kPages * kTogether];
#pragma GCC unroll 16
  for (int j = 0; j < kPages * kTogether; ++j) sums[j] = S::Zero();
  int64_t begin = 0;
  for (; begin + kPages * kPage <= n; begin += kPages * kPage) {
    for (int64_t i = begin; i < begin + kPage; i += kTogether * S::kWidth) {
#pragma GCC unroll 16
      for (int j = 0; j < kPages * kTogether; ++j) {
        const float* const p = data + i + j / kTogether * kPage + j % kTogether * S::kWidth;
        sums[j] = S::Add(sums[j], S::Load(p));
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 1; j < kPages * kTogether; ++j) sums[0] = S::Add(sums[0], sums[j]);
  for (; begin + S::kWidth <= n; begin += S::kWidth) sums[0] = S::Add(sums[0], S::Load(data + begin));
  float sum = S::Sum(sums[0]);
  for (; begin < n; ++begin) sum += data[begin];
  return sum;
}

}  // namespace fiddler
