#include "io/dummy_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/rng.h"

namespace fiddler {
namespace {

// Part of what the values are: each block of a tensor has keys of its own.
constexpr size_t kBlockBytes = size_t{2} << 20;

// Numbers are drawn from 16 bits as odd integers from -65535 to 65535: symmetric, and never zero.
constexpr float kDrawDeviation = 65536.0F / 1.7320508F;  // of a uniform draw: half range / sqrt(3)

// One block of one tensor: value = mean + scale * draw.
struct BlockParameters {
  uint32_t first_key;
  uint32_t second_key;
  float mean;
  float scale;
};

// FNV-1a, then mixed with the seed.
uint64_t TensorKey(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return Rng(hash ^ Rng(seed).NextBits()).NextBits();
}

// 32 random bits for word `index` of a block: the integer hash "lowbias32" (Wellons, hash-prospector) with a
// key added between its rounds, so that blocks are not shifted copies of each other. Only 32-bit operations
// that every vector unit has.
inline uint32_t RandomBits(uint32_t index, const BlockParameters& block) {
  uint32_t x = index + block.first_key;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) + block.second_key;
  x = x * 0x846ca68bu;
  return x ^ (x >> 16);
}

inline float Value(uint32_t bits16, const BlockParameters& block) {
  const int draw = static_cast<int>(2 * bits16) - 65535;
  return block.mean + block.scale * static_cast<float>(draw);
}

// How 32 random bits become 32 bits of tensor: one float, or two numbers of 16 bits.
struct AsF32 {
  static uint32_t Word(uint32_t random, const BlockParameters& block) {
    return std::bit_cast<uint32_t>(Value(random >> 16, block));
  }
};

struct AsBF16 {
  static uint32_t Word(uint32_t random, const BlockParameters& block) {
    return Bits(Value(random & 0xffffu, block)) | Bits(Value(random >> 16, block)) << 16;
  }
  static uint32_t Bits(float value) {  // ToBF16 without its branch for NaN
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  }
};

struct AsF16 {
  static uint32_t Word(uint32_t random, const BlockParameters& block) {
    return Bits(Value(random & 0xffffu, block)) | Bits(Value(random >> 16, block)) << 16;
  }
  // Rounds toward zero. The product moves the exponent's bias from 127 to 15 and makes what F16 calls
  // subnormal a subnormal float, whose bits are in the right place too. |value| < 65504.
  static uint32_t Bits(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const float magnitude = std::bit_cast<float>(bits & 0x7fffffffu) * 0x1p-112F;
    return (bits >> 16 & 0x8000u) | std::bit_cast<uint32_t>(magnitude) >> 13;
  }
};

// Bytes [begin, begin + out.size()) of a block; begin need not be a whole word.
template <typename Encoding>
[[gnu::always_inline]] inline void FillBlock(size_t begin, std::span<std::byte> out,
                                             const BlockParameters& parameters) {
  constexpr size_t kWord = sizeof(uint32_t);
  const BlockParameters block = parameters;  // by value: the stores below cannot change it
  size_t index = begin / kWord;
  const auto next_word = [&] {
    return Encoding::Word(RandomBits(static_cast<uint32_t>(index++), block), block);
  };
  std::byte* to = out.data();
  size_t left = out.size();
  if (const size_t skipped = begin % kWord; skipped > 0 && left > 0) {
    const uint32_t word = next_word();
    const size_t size = std::min(left, kWord - skipped);
    std::memcpy(to, reinterpret_cast<const std::byte*>(&word) + skipped, size);
    to += size;
    left -= size;
  }
  const size_t words = left / kWord;
  const auto first = static_cast<uint32_t>(index);
  for (size_t i = 0; i < words; ++i) {
    const uint32_t word = Encoding::Word(RandomBits(first + static_cast<uint32_t>(i), block), block);
    std::memcpy(to + i * kWord, &word, kWord);
  }
  index += words;
  if (left % kWord > 0) {
    const uint32_t last = next_word();
    std::memcpy(to + words * kWord, &last, left % kWord);
  }
}

using BlockFiller = void (*)(size_t, std::span<std::byte>, const BlockParameters&);

// The same loop for the widest vectors there are; the values are the same. Making BF16 on a Zen 5 core:
// SSE2 2.3, AVX2 5.2, AVX-512 12.5 GB/s.
template <typename Encoding>
void FillPlain(size_t begin, std::span<std::byte> out, const BlockParameters& block) {
  FillBlock<Encoding>(begin, out, block);
}

#if defined(__x86_64__)
template <typename Encoding>
[[gnu::target("avx2")]] void FillAvx2(size_t begin, std::span<std::byte> out, const BlockParameters& block) {
  FillBlock<Encoding>(begin, out, block);
}

template <typename Encoding>
[[gnu::target("avx512f,avx512vl")]] void FillAvx512(size_t begin, std::span<std::byte> out,
                                                    const BlockParameters& block) {
  FillBlock<Encoding>(begin, out, block);
}

template <typename Encoding>
BlockFiller WidestFiller() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return FillAvx512<Encoding>;
  if (__builtin_cpu_supports("avx2")) return FillAvx2<Encoding>;
  return FillPlain<Encoding>;
}
#else
template <typename Encoding>
BlockFiller WidestFiller() {
  return FillPlain<Encoding>;
}
#endif

BlockFiller FillerFor(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return WidestFiller<AsF32>();
    case DType::kF16:
      return WidestFiller<AsF16>();
    case DType::kBF16:
      return WidestFiller<AsBF16>();
    default:
      CHECK(false, "dummy weights are F32, F16 or BF16, not {}", DTypeName(dtype));
  }
}

struct Distribution {
  float mean;
  float deviation;
};

Distribution DistributionOf(std::string_view name, const Shape& shape) {
  if (shape.size() > 1)
    return {0.0F, 1.0F / std::sqrt(static_cast<float>(std::max<int64_t>(shape.back(), 1)))};
  if (name.ends_with("norm.weight")) return {1.0F, 0.05F};
  return {0.0F, 0.02F};
}

}  // namespace

DummyWeights::DummyWeights(uint64_t seed, DType dtype) : seed_(seed), dtype_(dtype) {
  CHECK(FillerFor(dtype) != nullptr);
}

WeightIdentity DummyWeights::Identity() const {
  const std::string name = fmt::format("made up, generator 1, seed {}, {}\n", seed_, DTypeName(dtype_));
  return {.name = name, .content = name};
}

TensorInfo DummyWeights::Require(std::string_view name, const Shape& shape) const {
  return {.name = std::string(name), .dtype = dtype_, .shape = shape};
}

void DummyWeights::Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  const BlockFiller fill_block = FillerFor(dtype_);
  const uint64_t key = TensorKey(seed_, tensor.name);
  const Distribution distribution = DistributionOf(tensor.name, tensor.shape);
  while (!out.empty()) {
    const uint64_t block_key = Rng(key + offset / kBlockBytes).NextBits();
    const size_t begin = offset % kBlockBytes;
    const size_t size = std::min(out.size(), kBlockBytes - begin);
    fill_block(begin, out.first(size),
               {.first_key = static_cast<uint32_t>(block_key),
                .second_key = static_cast<uint32_t>(block_key >> 32),
                .mean = distribution.mean,
                .scale = distribution.deviation / kDrawDeviation});
    out = out.subspan(size);
    offset += size;
  }
}

}  // namespace fiddler
