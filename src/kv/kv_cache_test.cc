#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

TEST(BlockPoolTest, HandsOutEachBlockOnceAndTakesItBack) {
  BlockPool pool(3);
  std::set<BlockId> taken;
  for (int i = 0; i < 3; ++i) taken.insert(pool.TryTake().value());
  EXPECT_EQ(taken, (std::set<BlockId>{0, 1, 2}));
  EXPECT_EQ(pool.TryTake(), std::nullopt);
  pool.Return(1);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.TryTake(), 1);
}

TEST(BlockPoolDeathTest, ReturningTwiceIsABug) {
  BlockPool pool(2);
  const BlockId block = pool.TryTake().value();
  pool.Return(block);
  EXPECT_DEATH(pool.Return(block), "is not in use");
  EXPECT_DEATH(pool.Return(7), "is not in use");
}

// Writes numbers that tell where they belong, all of them before any is read back.
TEST(KvCacheTest, EveryPositionOfEveryLayerAndHeadHasItsPlace) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const KvGeometry geometry = {.num_layers = 2, .num_kv_heads = 3, .head_dim = 5, .dtype = dtype};
    KvCache cache(geometry, 5);
    const std::vector<BlockId> tables[] = {{4, 0, 2}, {1, 3}};
    const int64_t positions[] = {2 * KvCache::kBlockTokens + 5, KvCache::kBlockTokens + 1};
    const auto number = [](int64_t sequence, int64_t layer, int64_t position, int64_t i) {  // exact as BF16
      return static_cast<float>((sequence * 2 + layer + 1) * 8 + i % 8) * (i < 8 ? 1.0f : 0.125f) *
             (position % 2 == 0 ? 1.0f : 4.0f) * static_cast<float>(1 << position / 8);
    };
    for (int64_t sequence = 0; sequence < 2; ++sequence) {
      for (int64_t layer = 0; layer < 2; ++layer) {
        for (int64_t p = 0; p < positions[sequence]; ++p) {
          std::vector<float> key(15);
          std::vector<float> value(15);
          for (int64_t i = 0; i < 15; ++i) {
            key[static_cast<size_t>(i)] = number(sequence, layer, p, i);
            value[static_cast<size_t>(i)] = -number(sequence, layer, p, i);
          }
          BestKernels().kv_write({.tokens = 1,
                                  .first_position = p,
                                  .k = key.data(),
                                  .v = value.data(),
                                  .kv = cache.View(layer, tables[sequence])});
        }
      }
    }
    const auto load = [&](const std::byte* cells, int64_t index) {
      if (dtype == DType::kF32) return reinterpret_cast<const float*>(cells)[index];
      return ToFloat(reinterpret_cast<const BF16*>(cells)[index]);
    };
    for (int64_t sequence = 0; sequence < 2; ++sequence) {
      for (int64_t layer = 0; layer < 2; ++layer) {
        const KvView view = cache.View(layer, tables[sequence]);
        for (int64_t p = 0; p < positions[sequence]; ++p) {
          for (int64_t i = 0; i < 15; ++i) {
            const int64_t block = p / KvCache::kBlockTokens;
            const int64_t token = p % KvCache::kBlockTokens;
            EXPECT_EQ(load(view.Keys(block, i / 5), view.layout.KeyIndex(token, i % 5)),
                      number(sequence, layer, p, i));
            EXPECT_EQ(load(view.Values(block, i / 5), view.layout.ValueIndex(token, i % 5)),
                      -number(sequence, layer, p, i));
          }
        }
      }
    }
  }
}

TEST(KvCacheTest, BlocksHaveTheBytesTheySay) {
  EXPECT_EQ(KvCache::BlockBytes({.num_layers = 3, .num_kv_heads = 4, .head_dim = 128}),
            3u * 4 * 2 * 128 * 32 * 4);
  EXPECT_EQ(KvCache::BlockBytes({.num_layers = 3, .num_kv_heads = 4, .head_dim = 128, .dtype = DType::kBF16}),
            3u * 4 * 2 * 128 * 32 * 2);
}

TEST(KvCacheTest, MoreBytesThanThereAreNumbersForIsRefused) {
  const KvGeometry geometry = {.num_layers = 1024, .num_kv_heads = 4096, .head_dim = 4096};
  try {
    KvCache cache(geometry, int32_t{1} << 26);  // 2^68 bytes
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "KV cache: expected less than 2^64 bytes, got 67108864 blocks of 4398046511104");
  }
}

}  // namespace
}  // namespace fiddler
