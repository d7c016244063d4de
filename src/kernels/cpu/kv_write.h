// kv_write for any Simd: rounds a register of numbers, then puts each where it belongs.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/ops.h"

namespace fiddler {

// One position of one KV head, kPack numbers to a cell of 32 bits.
template <class S, int kPack>
[[gnu::always_inline]] inline void KvWriteHead(const KvLayout& layout, int64_t token, const float* key,
                                               const float* value, uint32_t* keys, uint32_t* values) {
  constexpr int64_t kTokens = KvLayout::kBlockTokens;
  constexpr int64_t kDims = KvLayout::kValueDims;
  constexpr int kShift = 32 - 32 / kPack;  // BF16 is the high half of a float
  using Number = std::conditional_t<kPack == 2, uint16_t, uint32_t>;
  const auto round = [](typename S::Reg x) { return kPack == 2 ? S::RoundToBF16(x) : x; };
  alignas(64) float rounded_keys[S::kWidth];
  alignas(64) float rounded_values[S::kWidth];
  for (int64_t first = 0; first < layout.head_dim; first += S::kWidth) {
    const int64_t left = layout.head_dim - first;
    const int64_t count = left < S::kWidth ? left : S::kWidth;
    const auto load = [&](const float* x) {
      return count == S::kWidth ? S::Load(x + first) : S::LoadFirst(x + first, count);
    };
    S::Store(rounded_keys, round(load(key)));  // zeros past the end
    S::Store(rounded_values, round(load(value)));
    for (int64_t i = 0; i < count; i += kPack) {
      uint32_t numbers[kPack];
      __builtin_memcpy(numbers, rounded_keys + i, sizeof(numbers));
      uint32_t cell = numbers[0] >> kShift;
      if (kPack == 2) cell |= numbers[kPack - 1];
      keys[(first + i) / kPack * kTokens + token] = cell;
    }
    for (int64_t i = 0; i < count; ++i) {
      uint32_t number;
      __builtin_memcpy(&number, rounded_values + i, sizeof(number));
      const int64_t dim = first + i;
      const int64_t row = dim / kDims * (kTokens / kPack) + token / kPack;
      // The other number of a cell belongs to another position.
      const auto bits = static_cast<Number>(number >> kShift);
      __builtin_memcpy(reinterpret_cast<Number*>(values + row * kDims + dim % kDims) + token % kPack, &bits,
                       sizeof(bits));
    }
  }
}

template <class S>
void KvWrite(const KvWriteArgs& args) {
  const KvView& kv = args.kv;
  const KvLayout& layout = kv.layout;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t block = (args.first_position + t) / KvLayout::kBlockTokens;
    const int64_t token = (args.first_position + t) % KvLayout::kBlockTokens;
    for (int64_t head = 0; head < kv.kv_heads; ++head) {
      const int64_t row = (t * kv.kv_heads + head) * layout.head_dim;
      auto* const keys = reinterpret_cast<uint32_t*>(kv.Keys(block, head));
      auto* const values = reinterpret_cast<uint32_t*>(kv.Values(block, head));
      if (layout.dtype == DType::kBF16) {
        KvWriteHead<S, 2>(layout, token, args.k + row, args.v + row, keys, values);
      } else {
        KvWriteHead<S, 1>(layout, token, args.k + row, args.v + row, keys, values);
      }
    }
  }
}

}  // namespace fiddler
