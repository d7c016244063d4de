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

// Reads the two halves side by side, which on Zen 5 is 3 to 5% faster than one line after another, of 3 MB as
// of 100; neither prefetches nor more registers nor more streams help.
template <class S>
float ReadProbe(int64_t n, const float* data) {
  constexpr int kStreams = 2;
  constexpr int kTogether = 4;  // registers of a stream
  constexpr int64_t kStep = kTogether * S::kWidth;
  const int64_t part = n / kStreams / kStep * kStep;
  typename S::Reg sums[kStreams * kTogether];
#pragma GCC unroll 16
  for (typename S::Reg& sum : sums) sum = S::Zero();
  for (int64_t i = 0; i < part; i += kStep) {
#pragma GCC unroll 16
    for (int j = 0; j < kStreams * kTogether; ++j) {
      const float* const p = data + j / kTogether * part + i + j % kTogether * S::kWidth;
      sums[j] = S::Add(sums[j], S::Load(p));
    }
  }
#pragma GCC unroll 16
  for (int j = 1; j < kStreams * kTogether; ++j) sums[0] = S::Add(sums[0], sums[j]);
  float sum = S::Sum(sums[0]);
  for (int64_t i = kStreams * part; i < n; ++i) sum += data[i];
  return sum;
}

}  // namespace fiddler
