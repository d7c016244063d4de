// attend over a thread pool: attention of a batch over the KV cache, split into tasks. The split never
// changes a result, so any number of threads computes the same bits.
//
// A task is a tile: some tokens of one sequence with the query heads of one KV head. Where there are too few
// tiles to keep every thread busy to the end, as for one sequence with a long past, tiles are split further
// into segments of positions (kernels/ops.h), which are merged afterwards.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/batch.h"
#include "engine/workspace.h"
#include "kernels/ops.h"
#include "kv/kv_cache.h"
#include "model/spec.h"

namespace fiddler {

class ParallelAttend {
 public:
  // All references must outlive this object.
  ParallelAttend(const AttentionSpec& spec, const CpuKernels& kernels, ThreadPool& pool, const KvCache& cache,
                 int64_t max_positions, int64_t max_batch_tokens, Workspace& workspace);

  // q and out: [tokens of the batch, num_heads, head_dim]. The cache holds all the batch may look at; window
  // as in AttendArgs.
  void Run(int64_t layer, int64_t window, std::span<const BatchEntry> batch, const float* q, float* out);

 private:
  struct Tile {
    const BatchEntry* entry;
    int64_t row;     // of the tile's first token in the batch
    int64_t offset;  // of that token in the entry
    int64_t tokens;
    int64_t cost;     // for one KV head: queries times positions
    float* partials;  // [kv_heads, segments, queries, ..] if the tile is split, else null
  };
  struct Task {
    const Tile* tile;
    int64_t kv_head;
    int64_t segment;  // or kWhole
  };
  static constexpr int64_t kWhole = -1;

  void FindTiles(int64_t window, std::span<const BatchEntry> batch);
  void SplitTiles(int64_t window);
  void FindTasks(int64_t window);
  SegmentRange Segments(const Tile& tile, int64_t window) const;
  int64_t PartialFloats(const Tile& tile) const;  // of one segment and KV head

  const AttentionSpec& spec_;
  const CpuKernels& kernels_;
  ThreadPool& pool_;
  const KvCache& cache_;
  const int64_t max_partial_floats_;
  float* partials_;     // [max_partial_floats_]
  std::byte* scratch_;  // [threads, AttendScratchBytes(head_dim)]
  std::vector<Tile> tiles_;
  std::vector<Task> tasks_;
};

}  // namespace fiddler
