// rotate_store and attend of the emulated device against the oracle's kernels, one token at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error_testing.h"
#include "device/emulated_testing.h"

namespace fiddler {
namespace {

using testing::kModes;
using testing::Mode;
using testing::RandomFloats;
using testing::TestDevice;

constexpr int64_t kHeadDim = 20;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeads = 6;
constexpr int64_t kRotary = 12;
constexpr int64_t kPositions = 700;
constexpr int64_t kStride = 30;  // of the block tables
constexpr int64_t kBlocks = 64;  // of a KV head
constexpr int64_t kQWidth = kHeads * kHeadDim;
constexpr int64_t kKvWidth = kKvHeads * kHeadDim;

struct Sequence {
  int32_t row;  // of the block tables
  int32_t position;
  int32_t tokens;
};

// A batch of three sequences over a cache of random keys and values: one across a border of cells, one token
// far into a second segment, one that begins.
struct Case {
  explicit Case(DType dtype) : layout{.dtype = dtype, .head_dim = kHeadDim} {
    for (const Sequence& sequence : kSequences) {
      for (int32_t t = 0; t < sequence.tokens; ++t) {
        positions.push_back(sequence.position + t);
        sequences.push_back(sequence.row);
      }
    }
    for (size_t i = 0; i < block_tables.size(); ++i)
      block_tables[i] = static_cast<int32_t>((i * 23) % kBlocks);
    // No sequence has blocks of another.
    std::vector<int32_t> all(kBlocks);
    std::iota(all.begin(), all.end(), 0);
    std::reverse(all.begin(), all.end());
    std::copy_n(all.begin(), kStride, block_tables.begin() + 2 * kStride);
    std::copy_n(all.begin() + kStride, 4, block_tables.begin());
    std::copy_n(all.begin() + kStride + 4, 4, block_tables.begin() + kStride);
    cache = RandomFloats(kKvHeads * HeadFloats(), 1);
    if (dtype == DType::kBF16) {
      auto* const halves = reinterpret_cast<BF16*>(cache.data());
      const std::vector<float> values = RandomFloats(2 * std::ssize(cache), 2);
      for (size_t i = 0; i < values.size(); ++i) halves[i] = ToBF16(values[i]);
    }
    for (int64_t p = 0; p < kPositions; ++p) {
      for (int64_t i = 0; i < kRotary / 2; ++i) {
        const double angle = static_cast<double>(p) / static_cast<double>(i + 1);
        cosine.push_back(static_cast<float>(std::cos(angle)));
        sine.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  int64_t HeadFloats() const { return kBlocks * layout.bytes() / 4; }
  int64_t tokens() const { return std::ssize(positions); }
  KvView View(int32_t sequence) {
    return {.layer = reinterpret_cast<std::byte*>(cache.data()),
            .head_stride = HeadFloats() * 4,
            .block_table = block_tables.data() + sequence * kStride,
            .kv_heads = kKvHeads,
            .layout = layout};
  }
  FiddlerBatch PutBatch(TestDevice& device) const {
    return {.tokens = tokens(),
            .positions = device.Put(positions),
            .sequences = device.Put(sequences),
            .block_tables = device.Put(block_tables),
            .table_stride = kStride};
  }
  FiddlerKv PutKv(TestDevice& device) const {
    return {.layer = device.Put(cache),
            .head_stride = HeadFloats() * 4,
            .kv_heads = kKvHeads,
            .head_dim = kHeadDim,
            .dtype = static_cast<int32_t>(layout.dtype),
            .padding = 0};
  }

  static constexpr Sequence kSequences[] = {{1, 9, 60}, {2, 690, 1}, {0, 0, 40}};
  KvLayout layout;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> block_tables = std::vector<int32_t>(3 * kStride);
  std::vector<float> cache;
  std::vector<float> cosine;
  std::vector<float> sine;
};

TEST(EmulatedAttentionTest, RotateStore) {
  const CpuKernels& kernels = GenericKernels();
  for (const Mode mode : kModes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t norm_cols : {int64_t{0}, kHeadDim, int64_t{-1}}) {  // none, of a head, of all heads
        Case c(dtype);
        TestDevice device(mode, {}, kernels);
        std::vector<float> q = RandomFloats(c.tokens() * kQWidth, 3);
        std::vector<float> k = RandomFloats(c.tokens() * kKvWidth, 4);
        std::vector<float> v = RandomFloats(c.tokens() * kKvWidth, 5);
        const int64_t q_cols = norm_cols < 0 ? kQWidth : norm_cols;
        const int64_t k_cols = norm_cols < 0 ? kKvWidth : norm_cols;
        const std::vector<float> q_norm = RandomFloats(q_cols, 6);
        const std::vector<float> k_norm = RandomFloats(k_cols, 7);
        const float limit = norm_cols == 0 ? 0.5f : 0;
        const FiddlerRotateStore args = {.batch = c.PutBatch(device),
                                         .num_heads = kHeads,
                                         .q = device.Put(q),
                                         .k = device.Put(k),
                                         .v = device.Put(v),
                                         .q_norm = norm_cols == 0 ? 0 : device.Put(q_norm),
                                         .k_norm = norm_cols == 0 ? 0 : device.Put(k_norm),
                                         .q_norm_cols = q_cols,
                                         .k_norm_cols = k_cols,
                                         .epsilon = 0.01f,
                                         .clamp = limit,
                                         .rotary_dim = kRotary,
                                         .cosine = device.Put(c.cosine),
                                         .sine = device.Put(c.sine),
                                         .kv = c.PutKv(device)};
        device->RotateStore(device.stream(), args);

        for (int64_t t = 0; t < c.tokens(); ++t) {
          const int64_t position = c.positions[static_cast<size_t>(t)];
          float* const q_row = q.data() + t * kQWidth;
          float* const k_row = k.data() + t * kKvWidth;
          float* const v_row = v.data() + t * kKvWidth;
          const auto prepare = [&](float* x, int64_t heads, const std::vector<float>& weight) {
            const auto cols = std::ssize(weight);
            if (cols > 0) {
              kernels.rms_norm({.rows = heads * kHeadDim / cols,
                                .cols = cols,
                                .x = x,
                                .x_stride = cols,
                                .y = x,
                                .y_stride = cols,
                                .weight = weight.data(),
                                .epsilon = 0.01f});
            }
            for (int64_t i = 0; i < heads * kHeadDim && limit > 0; ++i)
              x[i] = std::min(limit, std::max(-limit, x[i]));
            const float* const cosine = c.cosine.data() + position * kRotary / 2;
            const float* const sine = c.sine.data() + position * kRotary / 2;
            kernels.rope({.x = x,
                          .heads = heads,
                          .head_dim = kHeadDim,
                          .rotary_dim = kRotary,
                          .cos = cosine,
                          .sin = sine});
          };
          prepare(q_row, kHeads, q_norm);
          prepare(k_row, kKvHeads, k_norm);
          for (int64_t i = 0; i < kKvWidth && limit > 0; ++i)
            v_row[i] = std::min(limit, std::max(-limit, v_row[i]));
          kernels.kv_write({.tokens = 1,
                            .first_position = position,
                            .k = k_row,
                            .v = v_row,
                            .kv = c.View(c.sequences[static_cast<size_t>(t)])});
        }
        EXPECT_EQ(device.Get(args.q, std::ssize(q)), q);
        EXPECT_EQ(device.Get(args.k, std::ssize(k)), k);
        const std::vector<std::byte> expected(c.View(0).layer, c.View(0).layer + c.cache.size() * 4);
        EXPECT_EQ(device.Get<std::byte>(args.kv.layer, std::ssize(expected)), expected);
      }
    }
  }
}

TEST(EmulatedAttentionTest, Attend) {
  for (const CpuKernels* kernels : SupportedKernels()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t window : {0, 45}) {
        Case c(dtype);
        TestDevice device(window == 0 ? Mode::kThreePool : Mode::kThreaded, {}, *kernels);
        const std::vector<float> q = RandomFloats(c.tokens() * kQWidth, 8);
        if (window > 0) std::fill_n(c.block_tables.begin() + 2 * kStride, 20, -1);  // past the window: gone
        const FiddlerAddress out = device.Room(c.tokens() * kQWidth);
        device->Attend(device.stream(), {.batch = c.PutBatch(device),
                                         .num_heads = kHeads,
                                         .q = device.Put(q),
                                         .out = out,
                                         .window = window,
                                         .scale = 0.3f,
                                         .padding = 0,
                                         .kv = c.PutKv(device)});
        std::vector<float> expected(q.size());
        testing::AlignedBytes scratch(AttendScratchBytes(kHeadDim));
        for (int64_t t = 0; t < c.tokens(); ++t) {
          for (int64_t head = 0; head < kKvHeads; ++head) {
            kernels->attend({.tokens = 1,
                             .first_position = c.positions[static_cast<size_t>(t)],
                             .window = window,
                             .kv_head = head,
                             .group = kHeads / kKvHeads,
                             .scale = 0.3f,
                             .q = q.data() + t * kQWidth,
                             .q_stride = kQWidth,
                             .out = expected.data() + t * kQWidth,
                             .out_stride = kQWidth,
                             .scratch = scratch.data(),
                             .kv = c.View(c.sequences[static_cast<size_t>(t)])});
          }
        }
        EXPECT_EQ(device.Get(out, std::ssize(q)), expected) << kernels->isa;
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
