// Packs x for panel_f32.h: each tile of T tokens as [cols][T] floats, zeros from the last column up to a
// whole group of 64.
#pragma once

#include "kernels/cpu/panel.h"
#include "kernels/rounding.h"

namespace fiddler {

template <int kTokens>
struct F32Tiles {
  static constexpr int kMaxTokens = kTokens;
};

[[gnu::always_inline]] inline const float* PackedRow(const PackArgs& args, int64_t t) {
  return args.x + (args.row_index != nullptr ? args.row_index[t] : t) * args.x_stride;
}

template <class S, int kTokens>
void PackF32(const PackArgs& args) {
  constexpr int64_t kBlock = 64;  // whole groups of every rounding
  const int64_t token_bytes = PackedTokenBytes(args.cols);
  ForEachTile<F32Tiles<kTokens>>(args.tokens, args.tile_begin, args.tile_end, [&](int64_t first, auto size) {
    constexpr int kTile = decltype(size)::kValue;
    auto* const tile = reinterpret_cast<float*>(args.packed + first * token_bytes);
    for (int t = 0; t < kTile; ++t) {
      const float* const x = PackedRow(args, first + t);
      for (int64_t k = 0; k < args.cols; k += kBlock) {
        alignas(kCacheLine) float block[kBlock] = {};
        const int64_t count = args.cols - k < kBlock ? args.cols - k : kBlock;
        for (int64_t i = 0; i < count; ++i) block[i] = x[k + i];
        const int64_t group = args.rounding == Rounding::kInt8Group32 ? 32 : kBlock;
        for (int64_t i = 0; i < kBlock; i += group) RoundGroup(args.rounding, group, block + i);
        for (int64_t i = 0; i < kBlock; ++i) tile[(k + i) * kTile + t] = block[i];
      }
    }
  });
}

}  // namespace fiddler
