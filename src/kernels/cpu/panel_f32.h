// The core of products in float32, for weights of every format and any Simd: weights are widened as they are
// read. x is packed as [cols][T] floats a tile, rounded as asked.
#pragma once

#include <cstring>

#include "kernels/cpu/panel.h"

namespace fiddler {

template <class SimdType, WeightFormat format, int kTokens>
struct F32Core {
  using S = SimdType;
  using Reg = typename S::Reg;
  static constexpr int kVectors = kPanelRows / S::kWidth;
  static constexpr int kColumnBytes = 4;
  static constexpr int64_t kChunkGroups = 1;  // fetches nothing
  static constexpr int kMaxTokens = kTokens;
  static constexpr GroupLayout kGroup = LayoutOf(format);

  // The 32 weights of column c of a group, vector v.
  [[gnu::always_inline]] static Reg Weights(const std::byte* group, int64_t c, int v) {
    const int64_t lane = v * S::kWidth;
    if constexpr (format == WeightFormat::kF32) {
      return S::Load(reinterpret_cast<const float*>(group) + lane);
    } else if constexpr (format == WeightFormat::kF16) {
      return S::Load(reinterpret_cast<const F16*>(group) + lane);
    } else if constexpr (format == WeightFormat::kBF16) {
      const auto* pairs = reinterpret_cast<const uint32_t*>(group) + lane;
      return c == 0 ? S::LowBF16(pairs) : S::HighBF16(pairs);
    } else {
      const Reg scale = S::Load(reinterpret_cast<const BF16*>(group) + lane);
      const auto* words = reinterpret_cast<const uint32_t*>(group + kPanelRows * sizeof(BF16)) + lane;
      if constexpr (format == WeightFormat::kInt8) {
        const Reg q = S::Bits(words + c / 4 * kPanelRows, static_cast<int>(c % 4 * 8), 0xff);
        return S::Mul(S::Sub(q, S::Set(128)), scale);  // exact
      } else {
        const Reg q = S::Bits(words + c / 8 * kPanelRows, static_cast<int>(c % 4 * 8 + c % 8 / 4 * 4), 0xf);
        return S::Mul(S::Sub(q, S::Set(8)), scale);  // exact
      }
    }
  }

  template <int T>
  // One function for mat_mul and gate_up: there are many, and sums in memory cost little beside their making.
  [[gnu::noinline]] static void Run(const std::byte* w, const std::byte* x, int64_t groups, Ahead&,
                                    Reg (&out)[kVectors][T]) {
    Reg sums[kVectors][T];  // not in `out`, which might be x for all the compiler knows
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sums[v][t] = S::Zero();
    }
    const auto* xs = reinterpret_cast<const float*>(x);
    for (int64_t g = 0; g < groups; ++g, w += kGroup.bytes) {
      for (int64_t c = 0; c < kGroup.cols; ++c, xs += T) {
        if constexpr (kVectors < T) {  // the fewer stay in registers beside the sums
          Reg weights[kVectors];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) weights[v] = Weights(w, c, v);
#pragma GCC unroll 16
          for (int t = 0; t < T; ++t) {
            const Reg value = S::Set(xs[t]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sums[v][t] = S::Fma(weights[v], value, sums[v][t]);
          }
        } else {
          Reg values[T];
#pragma GCC unroll 16
          for (int t = 0; t < T; ++t) values[t] = S::Set(xs[t]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const Reg weights = Weights(w, c, v);
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) sums[v][t] = S::Fma(weights, values[t], sums[v][t]);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) out[v][t] = sums[v][t];
    }
  }
};

// Calls body with the core of this format.
template <class S, int kTokens, class Body>
[[gnu::always_inline]] inline void WithF32Core(WeightFormat format, const Body& body) {
  switch (format) {
    case WeightFormat::kF32:
      return body(F32Core<S, WeightFormat::kF32, kTokens>());
    case WeightFormat::kF16:
      return body(F32Core<S, WeightFormat::kF16, kTokens>());
    case WeightFormat::kBF16:
      return body(F32Core<S, WeightFormat::kBF16, kTokens>());
    case WeightFormat::kInt8:
      return body(F32Core<S, WeightFormat::kInt8, kTokens>());
    case WeightFormat::kInt4:
      return body(F32Core<S, WeightFormat::kInt4, kTokens>());
  }
}

// Enough chains for two units of latency 4, few enough sizes to compile; with 16 registers, as many as fit.
template <class S>
inline constexpr int kF32Tokens = S::kRegisters == 32 ? 8 : 3;

template <class S>
void MatMulF32(const MatMulArgs& args) {
  WithF32Core<S, kF32Tokens<S>>(args.w.format, [&](auto core) { MatMulPanels<decltype(core)>(args); });
}

template <class S>
void GateUpF32(const GateUpArgs& args) {
  WithF32Core<S, kF32Tokens<S>>(args.w.format, [&](auto core) { GateUpPanels<decltype(core)>(args); });
}

}  // namespace fiddler
