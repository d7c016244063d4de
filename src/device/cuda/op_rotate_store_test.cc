#include <cmath>
#include <numeric>

#include "base/error_testing.h"
#include "device/cuda/op_testing.h"
#include "kernels/kv_view.h"
#include "kernels/tolerances.h"

namespace fiddler::cuda {
namespace {

using testing::RandomFloats;

constexpr int64_t kStride = 7;   // of the block tables
constexpr int64_t kBlocks = 20;  // of a KV head
constexpr int64_t kPositions = kStride * KvLayout::kBlockTokens;

enum class Over { kNone, kHead, kAllHeads };

struct Shape {
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 1;
  int64_t rotary_dim = 0;
  Over q_norm = Over::kNone;
  Over k_norm = Over::kNone;
  float clamp = 0;
  DType dtype = DType::kF32;
};

struct Result {
  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;
  std::vector<std::byte> cache;

  std::vector<float> All() const {
    std::vector<float> all = q;
    all.insert(all.end(), k.begin(), k.end());
    all.insert(all.end(), v.begin(), v.end());
    std::transform(cache.begin(), cache.end(), std::back_inserter(all), [](std::byte b) { return float(b); });
    return all;
  }
};

// Three sequences: one across the end of a block, one token far on, one that begins.
struct Case {
  explicit Case(const Shape& of) : shape(of), layout{.dtype = of.dtype, .head_dim = of.head_dim} {
    const auto add = [&](int32_t sequence, int32_t position, int32_t tokens) {
      for (int32_t t = 0; t < tokens; ++t) {
        positions.push_back(position + t);
        sequences.push_back(sequence);
      }
    };
    add(1, 29, 5);
    add(2, 221, 1);
    add(0, 0, 3);
    std::iota(block_tables.rbegin(), block_tables.rend() - 1, 0);  // no block is of two sequences
    block_tables[0] = 0;
    block_tables.back() = 0;
    std::swap(block_tables[0], block_tables[kStride - 1]);
    for (float& f : cosine) f = std::cos(static_cast<float>(&f - cosine.data()));
    for (float& f : sine) f = std::sin(static_cast<float>(&f - sine.data()));
  }
  int64_t tokens() const { return std::ssize(positions); }
  int64_t head_stride() const { return kBlocks * layout.bytes() + 64; }
  static int64_t NormCols(Over over, int64_t heads, int64_t head_dim) {
    return over == Over::kAllHeads ? heads * head_dim : head_dim;
  }

  Result Run(testing::TestDevice& device) const {
    const int64_t q_width = shape.heads * shape.head_dim;
    const int64_t kv_width = shape.kv_heads * shape.head_dim;
    const int64_t q_cols = NormCols(shape.q_norm, shape.heads, shape.head_dim);
    const int64_t k_cols = NormCols(shape.k_norm, shape.kv_heads, shape.head_dim);
    const FiddlerRotateStore args = {
        .batch = {.tokens = tokens(),
                  .positions = device.Put(positions),
                  .sequences = device.Put(sequences),
                  .block_tables = device.Put(block_tables),
                  .table_stride = kStride},
        .num_heads = shape.heads,
        .q = device.Put(RandomFloats(tokens() * q_width, 3)),
        .k = device.Put(RandomFloats(tokens() * kv_width, 4)),
        .v = device.Put(RandomFloats(tokens() * kv_width, 5)),
        .q_norm = shape.q_norm == Over::kNone ? 0 : device.Put(RandomFloats(q_cols, 6)),
        .k_norm = shape.k_norm == Over::kNone ? 0 : device.Put(RandomFloats(k_cols, 7)),
        .q_norm_cols = q_cols,
        .k_norm_cols = k_cols,
        .epsilon = 0.01f,
        .clamp = shape.clamp,
        .rotary_dim = shape.rotary_dim,
        .cosine = device.Put(cosine),
        .sine = device.Put(sine),
        .kv = {.layer = device.Put(Cache()),
               .head_stride = head_stride(),
               .kv_heads = shape.kv_heads,
               .head_dim = shape.head_dim,
               .dtype = static_cast<int32_t>(shape.dtype),
               .padding = 0}};
    device->RotateStore(device.stream(), args);
    return {device.Get(args.q, tokens() * q_width), device.Get(args.k, tokens() * kv_width),
            device.Get(args.v, tokens() * kv_width),
            device.Get<std::byte>(args.kv.layer, std::ssize(Cache()))};
  }

  // As it is before.
  std::vector<std::byte> Cache() const {
    return std::vector<std::byte>(static_cast<size_t>(shape.kv_heads * head_stride()), std::byte{0x5a});
  }
  // As it must be after, with these keys and values: to the last byte.
  std::vector<std::byte> CacheOf(const Result& result) const {
    std::vector<std::byte> cache = Cache();
    for (int64_t t = 0; t < tokens(); ++t) {
      GenericKernels().kv_write(
          {.tokens = 1,
           .first_position = positions[static_cast<size_t>(t)],
           .k = result.k.data() + t * shape.kv_heads * shape.head_dim,
           .v = result.v.data() + t * shape.kv_heads * shape.head_dim,
           .kv = {.layer = cache.data(),
                  .head_stride = head_stride(),
                  .block_table = block_tables.data() + sequences[static_cast<size_t>(t)] * kStride,
                  .kv_heads = shape.kv_heads,
                  .layout = layout}});
    }
    return cache;
  }

  Shape shape;
  KvLayout layout;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> block_tables = std::vector<int32_t>(3 * kStride);
  std::vector<float> cosine = std::vector<float>(static_cast<size_t>(kPositions * shape.rotary_dim / 2 + 1));
  std::vector<float> sine = cosine;
};

// Heads of q or k. A pair that turned is as far off as its length times what norm and rotation err by, on
// either side.
void ExpectNear(const std::vector<float>& got, const std::vector<float>& expected, const Shape& shape) {
  constexpr double kTolerance = 2 * (tolerance::kRmsNorm + tolerance::kRope);
  ASSERT_EQ(got.size(), expected.size());
  const auto half = static_cast<size_t>(shape.rotary_dim / 2);
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t dim = i % static_cast<size_t>(shape.head_dim);
    const size_t other = dim < half ? i + half : dim < 2 * half ? i - half : i;
    const double length = std::abs(expected[i]) + std::abs(expected[other]);
    ASSERT_NEAR(got[i], expected[i], kTolerance * 1.5 * length) << "number " << i;
  }
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  const Shape sizes[] = {
      {.heads = 6, .kv_heads = 2, .head_dim = 20, .rotary_dim = 12},
      {.heads = 5, .kv_heads = 5, .head_dim = 33, .rotary_dim = 32},
      {.heads = 9, .kv_heads = 3, .head_dim = 64, .rotary_dim = 0},
      {.heads = 4, .kv_heads = 1, .head_dim = 128, .rotary_dim = 128},
      {.heads = 2, .kv_heads = 1, .head_dim = 256, .rotary_dim = 64},
      {.heads = 1, .kv_heads = 1, .head_dim = 255, .rotary_dim = 254},
      {.heads = 1, .kv_heads = 1, .head_dim = 1, .rotary_dim = 0},
  };
  for (const Shape& size : sizes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& [q_norm, k_norm] : {std::pair(Over::kNone, Over::kNone),
                                           {Over::kHead, Over::kHead},
                                           {Over::kAllHeads, Over::kAllHeads},
                                           {Over::kNone, Over::kAllHeads}}) {
        Shape shape = size;
        shape.dtype = dtype;
        shape.q_norm = q_norm;
        shape.k_norm = k_norm;
        shape.clamp = q_norm == Over::kNone && k_norm == Over::kNone ? 0.5f : 0;
        shapes.push_back(shape);
      }
    }
  }
  return shapes;
}

TEST(CudaRotateStoreTest, AsTheHostDoes) {
  uint64_t seed = 0;
  for (const Shape& shape : Shapes()) {
    SCOPED_TRACE(::testing::Message()
                 << shape.heads << " heads, " << shape.kv_heads << " of keys, of " << shape.head_dim << ", "
                 << shape.rotary_dim << " turn, norms " << int(shape.q_norm) << ", " << int(shape.k_norm));
    const Case c(shape);
    testing::TestDevice cpu(testing::Mode::kOneThread, {}, GenericKernels());
    OpDevice device({}, ++seed);
    const Result expected = c.Run(cpu);
    const Result got = c.Run(device);
    ASSERT_NO_FATAL_FAILURE(ExpectNear(got.q, expected.q, shape));
    ASSERT_NO_FATAL_FAILURE(ExpectNear(got.k, expected.k, shape));
    ASSERT_EQ(got.v, expected.v);
    ASSERT_TRUE(got.cache == c.CacheOf(got));
  }
}

TEST(CudaRotateStoreTest, EverySiteIsNeeded) {
  const Case c({.heads = 6,
                .kv_heads = 2,
                .head_dim = 20,
                .rotary_dim = 12,
                .q_norm = Over::kAllHeads,
                .k_norm = Over::kAllHeads});
  ExpectEverySiteIsNeeded([&](OpDevice& device) { return c.Run(device).All(); });
}

TEST(CudaRotateStoreTest, SaysWhatIsWrong) {
  const auto error = [](const Shape& shape) {
    OpDevice device;
    return ErrorOf([&] { Case(shape).Run(device); });
  };
  EXPECT_TRUE(
      testing::Says(error({.head_dim = 257}), {"rotate_store: head_dim: expected 1 to 256, got 257"}));
  EXPECT_TRUE(testing::Says(error({.head_dim = 8, .rotary_dim = 3}), {"rotate_store: rotary_dim is odd"}));
  EXPECT_TRUE(testing::Says(error({.head_dim = 8, .clamp = -1}), {"rotate_store: clamp is below 0"}));
  EXPECT_TRUE(testing::Says(error({.head_dim = 8, .dtype = DType::kF16}),
                            {"rotate_store: no KV cache is of type 7"}));
}

}  // namespace
}  // namespace fiddler::cuda
