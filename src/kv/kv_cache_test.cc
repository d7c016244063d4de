#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

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

TEST(KvCacheTest, EveryPositionIsReadBackWhereTheViewSaysItIs) {
  const KvGeometry geometry = {.num_layers = 2, .num_kv_heads = 3, .head_dim = 4};
  KvCache cache(geometry, 5);
  const std::vector<BlockId> table = {4, 0, 2};
  const int64_t positions = 2 * KvCache::kBlockTokens + 5;
  const auto value_of = [](int64_t layer, int64_t position, int64_t i) {
    return static_cast<float>(layer * 100000 + position * 100 + i);
  };
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t p = 0; p < positions; ++p) {
      std::vector<float> key(12);
      std::vector<float> value(12);
      for (int64_t i = 0; i < 12; ++i) {
        key[static_cast<size_t>(i)] = value_of(layer, p, i);
        value[static_cast<size_t>(i)] = -value_of(layer, p, i);
      }
      cache.Write(layer, table, p, key.data(), value.data());
    }
  }
  for (int64_t layer = 0; layer < 2; ++layer) {
    const KvView view = cache.View(layer, table);
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t head = 0; head < 3; ++head) {
        const int64_t row = p % view.block_tokens * view.head_dim;
        for (int64_t i = 0; i < 4; ++i) {
          EXPECT_EQ(view.Keys(p / view.block_tokens, head)[row + i], value_of(layer, p, head * 4 + i));
          EXPECT_EQ(view.Values(p / view.block_tokens, head)[row + i], -value_of(layer, p, head * 4 + i));
        }
      }
    }
  }
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
