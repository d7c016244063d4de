#include "engine/parallel_attend.h"

#include <algorithm>
#include <cmath>

namespace fiddler {
namespace {

// A task should be no more than this part of what a thread has to do, so that the last one to finish keeps
// the others waiting for little of their time.
constexpr int64_t kTasksPerThread = 8;

// Room for the partial results of split tiles: of as many tokens as may be too few for the threads.
int64_t MaxPartialFloats(const AttentionSpec& spec, int num_threads, int64_t max_positions,
                         int64_t max_batch_tokens) {
  const int64_t segments = (max_positions + kAttendSegment - 1) / kAttendSegment;
  if (num_threads == 1 || segments == 1) return 0;
  const int64_t tokens =
      std::min(max_batch_tokens, std::max<int64_t>(4, 2 * num_threads / spec.num_kv_heads));
  return tokens * spec.num_heads * segments * AttendPartialFloats(spec.head_dim);
}

}  // namespace

ParallelAttend::ParallelAttend(const AttentionSpec& spec, const CpuKernels& kernels, ThreadPool& pool,
                               const KvCache& cache, int64_t max_positions, int64_t max_batch_tokens,
                               Workspace& workspace)
    : spec_(spec),
      kernels_(kernels),
      pool_(pool),
      cache_(cache),
      max_partial_floats_(MaxPartialFloats(spec, pool.num_threads(), max_positions, max_batch_tokens)),
      partials_(workspace.Floats(max_partial_floats_)),
      scratch_(workspace.Bytes(pool.num_threads() * AttendScratchBytes(spec.head_dim))) {
  const int64_t segments =
      max_partial_floats_ / (spec.group() * AttendPartialFloats(spec.head_dim));  // split, of all KV heads
  tiles_.reserve(static_cast<size_t>(max_batch_tokens));
  tasks_.reserve(static_cast<size_t>(max_batch_tokens * spec.num_kv_heads + segments));
}

void ParallelAttend::Run(int64_t layer, int64_t window, std::span<const BatchEntry> batch, const float* q,
                         float* out) {
  FindTiles(window, batch);
  SplitTiles(window);
  FindTasks(window);
  const int64_t width = spec_.q_width();
  const auto args_of = [&](const Tile& tile, int64_t kv_head) {
    return AttendArgs{.tokens = tile.tokens,
                      .first_position = tile.entry->first_position + tile.offset,
                      .window = window,
                      .kv_head = kv_head,
                      .group = spec_.group(),
                      .scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim)),
                      .q = q + tile.row * width,
                      .q_stride = width,
                      .out = out + tile.row * width,
                      .out_stride = width,
                      .kv = cache_.View(layer, tile.entry->block_table)};
  };
  const auto partials_of = [&](const Tile& tile, int64_t kv_head, int64_t segment) {
    const SegmentRange segments = Segments(tile, window);
    const int64_t index = kv_head * (segments.end - segments.begin) + segment - segments.begin;
    return tile.partials + index * PartialFloats(tile);
  };

  pool_.ParallelFor(std::ssize(tasks_), [&](int64_t index, int worker) {
    const Task& task = tasks_[static_cast<size_t>(index)];
    AttendArgs args = args_of(*task.tile, task.kv_head);
    args.scratch = scratch_ + worker * AttendScratchBytes(spec_.head_dim);
    if (task.segment == kWhole) {
      kernels_.attend(args);
    } else {
      kernels_.attend_segment(args, task.segment, partials_of(*task.tile, task.kv_head, task.segment));
    }
  });

  const auto whole = std::partition_point(tiles_.begin(), tiles_.end(),
                                          [](const Tile& tile) { return tile.partials != nullptr; });
  pool_.ParallelFor((whole - tiles_.begin()) * spec_.num_kv_heads, [&](int64_t index, int) {
    const Tile& tile = tiles_[static_cast<size_t>(index / spec_.num_kv_heads)];
    const int64_t kv_head = index % spec_.num_kv_heads;
    kernels_.attend_merge(args_of(tile, kv_head), partials_of(tile, kv_head, Segments(tile, window).begin));
  });
}

// The costliest first.
void ParallelAttend::FindTiles(int64_t window, std::span<const BatchEntry> batch) {
  const int64_t tile_tokens = std::max<int64_t>(1, kAttendQueries / spec_.group());
  tiles_.clear();
  int64_t row = 0;
  for (const BatchEntry& entry : batch) {
    const auto count = static_cast<int64_t>(entry.tokens.size());
    for (int64_t offset = 0; offset < count; offset += tile_tokens) {
      const int64_t tokens = std::min(tile_tokens, count - offset);
      const int64_t newest = entry.first_position + offset + tokens;
      const int64_t positions = window > 0 ? std::min(newest, window + tokens) : newest;
      tiles_.push_back({.entry = &entry,
                        .row = row + offset,
                        .offset = offset,
                        .tokens = tokens,
                        .cost = positions * tokens * spec_.group(),
                        .partials = nullptr});
    }
    row += count;
  }
  std::sort(tiles_.begin(), tiles_.end(), [](const Tile& a, const Tile& b) { return a.cost > b.cost; });
}

// Splits tiles, from the costliest on, while they are too large a part of the whole.
void ParallelAttend::SplitTiles(int64_t window) {
  int64_t total = 0;
  for (const Tile& tile : tiles_) total += tile.cost;
  const int64_t limit = total * spec_.num_kv_heads / (pool_.num_threads() * kTasksPerThread);
  int64_t used = 0;  // of max_partial_floats_, which is 0 for one thread
  for (Tile& tile : tiles_) {
    const SegmentRange segments = Segments(tile, window);
    const int64_t floats = spec_.num_kv_heads * (segments.end - segments.begin) * PartialFloats(tile);
    if (tile.cost <= limit || segments.end - segments.begin == 1) break;
    if (used + floats > max_partial_floats_) break;
    tile.partials = partials_ + used;
    used += floats;
  }
}

// Whole tiles are the largest tasks and go first.
void ParallelAttend::FindTasks(int64_t window) {
  tasks_.clear();
  for (const Tile& tile : tiles_) {
    if (tile.partials != nullptr) continue;
    for (int64_t head = 0; head < spec_.num_kv_heads; ++head) tasks_.push_back({&tile, head, kWhole});
  }
  for (const Tile& tile : tiles_) {
    if (tile.partials == nullptr) break;
    const SegmentRange segments = Segments(tile, window);
    for (int64_t head = 0; head < spec_.num_kv_heads; ++head) {
      for (int64_t s = segments.begin; s < segments.end; ++s) tasks_.push_back({&tile, head, s});
    }
  }
}

SegmentRange ParallelAttend::Segments(const Tile& tile, int64_t window) const {
  return SegmentsOf(tile.entry->first_position + tile.offset, tile.tokens, window);
}

int64_t ParallelAttend::PartialFloats(const Tile& tile) const {
  return tile.tokens * spec_.group() * AttendPartialFloats(spec_.head_dim);
}

}  // namespace fiddler
