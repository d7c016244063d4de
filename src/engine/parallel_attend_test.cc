// ParallelAttend against attend of one token at a time, to the last bit.
#include "engine/parallel_attend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "base/rng.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

std::atomic<int> whole_tiles{0};
std::atomic<int> segments{0};

// The best kernels, counting calls.
CpuKernels Counted() {
  CpuKernels kernels = BestKernels();
  kernels.attend = [](const AttendArgs& args) {
    ++whole_tiles;
    BestKernels().attend(args);
  };
  kernels.attend_segment = [](const AttendArgs& args, int64_t segment, float* partials) {
    ++segments;
    BestKernels().attend_segment(args, segment, partials);
  };
  whole_tiles = 0;
  segments = 0;
  return kernels;
}

struct Entry {
  int64_t first_position;
  int64_t tokens;
};

// Sequences in a KV cache, their blocks in turn.
class Batch {
 public:
  Batch(const AttentionSpec& spec, DType dtype, std::vector<Entry> lengths)
      : spec_(spec),
        rng_(7),
        cache_(
            {.num_layers = 2, .num_kv_heads = spec.num_kv_heads, .head_dim = spec.head_dim, .dtype = dtype},
            CountBlocks(lengths)) {
    for (const Entry& entry : lengths) {
      max_positions = std::max(max_positions, entry.first_position + entry.tokens);
      tokens += entry.tokens;
    }
    tables_.resize(lengths.size());
    token_ids_.resize(static_cast<size_t>(tokens));
    BlockId next_block = 0;
    for (bool more = true; more;) {
      more = false;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const int64_t blocks = KvCache::BlocksFor(lengths[i].first_position + lengths[i].tokens);
        if (std::ssize(tables_[i]) == blocks) continue;
        tables_[i].push_back(next_block++);
        more = true;
      }
    }
    for (size_t i = 0; i < lengths.size(); ++i) {
      const int64_t positions = lengths[i].first_position + lengths[i].tokens;
      const std::vector<float> k = Numbers(positions * spec.kv_width());
      const std::vector<float> v = Numbers(positions * spec.kv_width());
      BestKernels().kv_write(
          {.tokens = positions, .k = k.data(), .v = v.data(), .kv = cache_.View(kLayer, tables_[i])});
      entries.push_back({.tokens = std::span(token_ids_).first(static_cast<size_t>(lengths[i].tokens)),
                         .first_position = lengths[i].first_position,
                         .block_table = tables_[i]});
    }
    q = Numbers(tokens * spec.q_width());
  }

  std::vector<float> Attend(const CpuKernels& kernels, int num_threads, int64_t window) {
    ThreadPool pool(num_threads, DiscoverTopology());
    Workspace workspace;
    ParallelAttend attend(spec_, kernels, pool, cache_, max_positions, tokens, workspace);
    std::vector<float> out(q.size(), NAN);
    attend.Run(kLayer, window, entries, q.data(), out.data());
    return out;
  }

  // By every token for itself.
  std::vector<float> Expected(int64_t window) {
    std::vector<float> out(q.size(), NAN);
    Workspace workspace;
    std::byte* scratch = workspace.Bytes(AttendScratchBytes(spec_.head_dim));
    int64_t row = 0;
    for (const BatchEntry& entry : entries) {
      for (int64_t t = 0; t < std::ssize(entry.tokens); ++t, ++row) {
        for (int64_t head = 0; head < spec_.num_kv_heads; ++head) {
          BestKernels().attend({.tokens = 1,
                                .first_position = entry.first_position + t,
                                .window = window,
                                .kv_head = head,
                                .group = spec_.group(),
                                .scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim)),
                                .q = q.data() + row * spec_.q_width(),
                                .q_stride = spec_.q_width(),
                                .out = out.data() + row * spec_.q_width(),
                                .out_stride = spec_.q_width(),
                                .scratch = scratch,
                                .kv = cache_.View(kLayer, entry.block_table)});
        }
      }
    }
    return out;
  }

  std::vector<BatchEntry> entries;
  std::vector<float> q;
  int64_t tokens = 0;
  int64_t max_positions = 0;

 private:
  static constexpr int64_t kLayer = 1;

  static int32_t CountBlocks(std::span<const Entry> all) {
    int64_t blocks = 0;
    for (const Entry& entry : all) blocks += KvCache::BlocksFor(entry.first_position + entry.tokens);
    return static_cast<int32_t>(blocks);
  }
  std::vector<float> Numbers(int64_t count) {
    std::vector<float> numbers(static_cast<size_t>(count));
    for (float& number : numbers) number = static_cast<float>(rng_.NextBits() % 2001) / 500 - 2;
    return numbers;
  }

  const AttentionSpec spec_;
  Rng rng_;
  KvCache cache_;
  std::vector<std::vector<BlockId>> tables_;
  std::vector<int32_t> token_ids_;
};

AttentionSpec SpecOf(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  AttentionSpec spec;
  spec.num_heads = num_heads;
  spec.num_kv_heads = num_kv_heads;
  spec.head_dim = head_dim;
  return spec;
}

TEST(ParallelAttendTest, NeitherThreadsNorCompanyChangeAToken) {
  const AttentionSpec specs[] = {SpecOf(8, 2, 20), SpecOf(3, 3, 8), SpecOf(16, 1, 32)};
  const std::vector<Entry> batches[] = {
      {{2500, 1}},
      {{1023, 2}, {0, 1}, {511, 1}, {512, 1}},
      {{0, 300}},
      {{1900, 1}, {600, 90}, {0, 7}, {1400, 130}},
  };
  for (const AttentionSpec& spec : specs) {
    for (const std::vector<Entry>& entries : batches) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        Batch batch(spec, dtype, entries);
        for (const int64_t window : {0, 40, 700}) {
          const std::vector<float> expected = batch.Expected(window);
          for (const int threads : {1, 2, 3, 7}) {
            EXPECT_EQ(batch.Attend(BestKernels(), threads, window), expected)
                << spec.num_heads << " heads, " << entries.size() << " entries, " << DTypeName(dtype)
                << ", window " << window << ", threads " << threads;
          }
        }
      }
    }
  }
}

TEST(ParallelAttendTest, OneLongSequenceKeepsEveryThreadBusy) {
  Batch batch(SpecOf(4, 1, 16), DType::kBF16, {{5000, 1}});
  const CpuKernels kernels = Counted();
  batch.Attend(kernels, 1, 0);
  EXPECT_EQ(whole_tiles, 1);
  EXPECT_EQ(segments, 0);
  batch.Attend(kernels, 3, 0);
  EXPECT_EQ(whole_tiles, 1);
  EXPECT_EQ(segments, 10);
  batch.Attend(kernels, 3, 1000);  // positions from 4001 on
  EXPECT_EQ(segments, 10 + 3);
}

TEST(ParallelAttendTest, WhatIsEnoughForAllThreadsIsNotSplit) {
  const CpuKernels kernels = Counted();
  Batch(SpecOf(8, 4, 16), DType::kF32, {{0, 1500}}).Attend(kernels, 2, 0);
  EXPECT_EQ(whole_tiles, 4 * 24);  // 64 tokens of 2 heads are a tile
  EXPECT_EQ(segments, 0);
}

// One sequence is far longer than the others: it alone is split.
TEST(ParallelAttendTest, TheLongestAreSplit) {
  const CpuKernels kernels = Counted();
  std::vector<Entry> entries(12, {.first_position = 600, .tokens = 1});
  entries.push_back({.first_position = 4000, .tokens = 1});
  Batch(SpecOf(8, 2, 16), DType::kF32, entries).Attend(kernels, 2, 0);
  EXPECT_EQ(whole_tiles, 2 * 12);
  EXPECT_EQ(segments, 2 * 8);
}

}  // namespace
}  // namespace fiddler
