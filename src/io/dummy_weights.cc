#include "io/dummy_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/rng.h"
#include "io/parallel_blocks.h"

namespace fiddler {
namespace {

// A thread fills one huge page at a time, so that no two threads take the page fault for the same one.
constexpr size_t kBlockBytes = kHugePageBytes;

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

template <typename Encoding>
[[gnu::always_inline]] inline void FillBlock(std::span<std::byte> out, const BlockParameters& parameters) {
  const BlockParameters block = parameters;  // by value: the stores below cannot change it
  const size_t words = out.size() / sizeof(uint32_t);
  std::byte* const begin = out.data();
  for (size_t i = 0; i < words; ++i) {
    const uint32_t word = Encoding::Word(RandomBits(static_cast<uint32_t>(i), block), block);
    std::memcpy(begin + i * sizeof(uint32_t), &word, sizeof(uint32_t));
  }
  const uint32_t last = Encoding::Word(RandomBits(static_cast<uint32_t>(words), block), block);
  std::memcpy(begin + words * sizeof(uint32_t), &last, out.size() % sizeof(uint32_t));
}

using BlockFiller = void (*)(std::span<std::byte>, const BlockParameters&);

// The same loop for the widest vectors there are; the values are the same. Making BF16 on a Zen 5 core:
// SSE2 2.3, AVX2 5.2, AVX-512 12.5 GB/s, where clearing the page costs about as much again.
template <typename Encoding>
void FillPlain(std::span<std::byte> out, const BlockParameters& block) {
  FillBlock<Encoding>(out, block);
}

#if defined(__x86_64__)
template <typename Encoding>
[[gnu::target("avx2")]] void FillAvx2(std::span<std::byte> out, const BlockParameters& block) {
  FillBlock<Encoding>(out, block);
}

template <typename Encoding>
[[gnu::target("avx512f,avx512vl")]] void FillAvx512(std::span<std::byte> out, const BlockParameters& block) {
  FillBlock<Encoding>(out, block);
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

size_t NumElements(const Shape& shape) {
  size_t count = 1;
  for (const int64_t dimension : shape) {
    CHECK(dimension >= 0 && !__builtin_mul_overflow(count, static_cast<size_t>(dimension), &count), "{}",
          ShapeToString(shape));
  }
  return count;
}

}  // namespace

DummyWeights::DummyWeights(uint64_t seed, DType dtype, Progress& progress, unsigned threads)
    : seed_(seed), dtype_(dtype), progress_(progress), threads_(threads) {
  CHECK(FillerFor(dtype) != nullptr && threads > 0);
}

TensorView DummyWeights::Require(std::string_view name, const Shape& shape) {
  const std::lock_guard lock(mutex_);
  auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    const size_t bytes = NumElements(shape) * DTypeBytes(dtype_);
    const Tensor tensor = {shape, arena_.Allocate(bytes, fmt::format("dummy weights: tensor {}", name))};
    Fill(name, tensor);
    found = tensors_.emplace(name, tensor).first;
  }
  const Tensor& tensor = found->second;
  CHECK(tensor.shape == shape, "{}: first {}, then {}", name, ShapeToString(tensor.shape),
        ShapeToString(shape));
  return {.name = std::string(name), .dtype = dtype_, .shape = shape, .bytes = tensor.bytes};
}

void DummyWeights::Fill(std::string_view name, const Tensor& tensor) {
  const BlockFiller fill_block = FillerFor(dtype_);
  const uint64_t key = TensorKey(seed_, name);
  const Distribution distribution = DistributionOf(name, tensor.shape);
  const size_t num_blocks = (tensor.bytes.size() + kBlockBytes - 1) / kBlockBytes;
  ForEachBlock(num_blocks, threads_, [&](size_t block) {
    const size_t begin = block * kBlockBytes;
    const size_t size = std::min(kBlockBytes, tensor.bytes.size() - begin);
    const uint64_t block_key = Rng(key + block).NextBits();
    fill_block(tensor.bytes.subspan(begin, size), {.first_key = static_cast<uint32_t>(block_key),
                                                   .second_key = static_cast<uint32_t>(block_key >> 32),
                                                   .mean = distribution.mean,
                                                   .scale = distribution.deviation / kDrawDeviation});
    progress_.Advance(size);
  });
}

void DummyWeights::Release(const TensorView& tensor) {
  const std::lock_guard lock(mutex_);
  const auto found = tensors_.find(tensor.name);
  CHECK(found != tensors_.end(), "{}", tensor.name);
  arena_.Discard(found->second.bytes);
  tensors_.erase(found);
}

}  // namespace fiddler
