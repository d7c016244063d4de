#include "engine/sliced_ffn.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace fiddler {
namespace {

// Shares of y that one region may write: as much as stays in the cores' L2 next to the weights that stream
// by.
constexpr int64_t kShareBytes = 8 << 20;

// Output rows of a task in the second region: 8 panels are 64 KB in a row of a slice of 128 neurons of bf16,
// long enough for the hardware to read ahead.
constexpr int64_t kPanelsPerTask = 8;

}  // namespace

SlicedFfnRunner::SlicedFfnRunner(const SlicedFfnLimits& limits, const ParallelOps& ops, Workspace& workspace)
    : limits_(limits),
      ops_(ops),
      x_(workspace.Bytes(limits.slots * PackedTokenBytes(limits.hidden))),
      h_(workspace.Bytes(limits.slot_neurons * static_cast<int64_t>(sizeof(float)))),
      worker_h_(workspace.Floats(ops.pool().num_threads() * limits.tokens * limits.slice_neurons)),
      max_rows_(std::max(limits.slots, kShareBytes / (limits.hidden * static_cast<int64_t>(sizeof(float))))),
      outputs_(static_cast<size_t>(limits.slots)) {
  y_ = workspace.Floats(max_rows_ * limits.hidden);
  const auto max_passes = static_cast<size_t>(limits.slots);
  first_h_.reserve(max_passes);
  first_row_.reserve(max_passes);
  first_task_.reserve(max_passes + 1);
}

void SlicedFfnRunner::Run(std::span<const FfnPass> passes, const float* x, bool same_x) {
  first_h_.clear();
  first_row_.clear();
  int64_t h_bytes = 0;
  int64_t share_rows = 0;
  for (const FfnPass& pass : passes) {
    first_h_.push_back(h_bytes);
    first_row_.push_back(share_rows);
    h_bytes += pass.ffn->num_slices() * pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons);
    share_rows += pass.ffn->num_slices() * pass.tokens;
  }
  CHECK(h_bytes <= limits_.slot_neurons * static_cast<int64_t>(sizeof(float)), "{} bytes", h_bytes);
  PackX(passes, x, same_x);
  const bool few = share_rows * limits_.hidden * static_cast<int64_t>(sizeof(float)) <= kShareBytes;
  few ? RunInOneRegion(passes) : RunInTwoRegions(passes);
}

const std::byte* SlicedFfnRunner::PackedX(const FfnPass& pass) const {
  return same_x_ ? x_ : x_ + pass.first_slot * PackedTokenBytes(limits_.hidden);
}

std::byte* SlicedFfnRunner::PackedH(const FfnPass& pass, int64_t pass_index, int64_t slice) const {
  const int64_t slice_bytes = pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons);
  return h_ + first_h_[static_cast<size_t>(pass_index)] + slice * slice_bytes;
}

void SlicedFfnRunner::PackX(std::span<const FfnPass> passes, const float* x, bool same_x) {
  constexpr int64_t kParts = 8;  // of a pass with many tokens
  same_x_ = same_x;
  const auto pack = [&](const FfnPass& pass, Range tiles) {
    ops_.kernels().pack({.rounding = RoundingOf(pass),
                         .tokens = pass.tokens,
                         .cols = limits_.hidden,
                         .x = x,
                         .x_stride = limits_.hidden,
                         .row_index = pass.token_index,
                         .tile_begin = tiles.begin,
                         .tile_end = tiles.end,
                         .packed = x_ + pass.first_slot * PackedTokenBytes(limits_.hidden)});
  };
  if (same_x) return pack(passes.front(), {0, 1});
  ops_.pool().ParallelFor(static_cast<int64_t>(passes.size()) * kParts, [&](int64_t task, int) {
    const FfnPass& pass = passes[static_cast<size_t>(task / kParts)];
    const int64_t tiles = ops_.kernels().num_tiles(RoundingOf(pass), pass.tokens);
    pack(pass, SplitRange(tiles, kParts, task % kParts));
  });
}

void SlicedFfnRunner::GateUp(const FfnPass& pass, int64_t pass_index, int64_t slice, int worker) {
  const int64_t neurons = pass.ffn->slice_neurons;
  const Rounding rounding = RoundingOf(pass);
  const PackedMatrix w = pass.ffn->GateUp(slice);
  float* const h = worker_h_ + worker * limits_.tokens * limits_.slice_neurons;
  ops_.kernels().gate_up({.w = w,
                          .panel_end = w.num_panels(),
                          .rounding = rounding,
                          .tokens = pass.tokens,
                          .x = PackedX(pass),
                          .h = h,
                          .h_stride = neurons});
  ops_.kernels().pack({.rounding = rounding,
                       .tokens = pass.tokens,
                       .cols = neurons,
                       .x = h,
                       .x_stride = neurons,
                       .tile_end = ops_.kernels().num_tiles(rounding, pass.tokens),
                       .packed = PackedH(pass, pass_index, slice)});
}

template <typename Body>
void SlicedFfnRunner::ForEachSlice(std::span<const FfnPass> passes, const Body& body) {
  first_task_.clear();
  int64_t tasks = 0;
  for (const FfnPass& pass : passes) {
    first_task_.push_back(tasks);
    tasks += pass.ffn->num_slices();
  }
  ops_.pool().ParallelFor(tasks, [&](int64_t task, int worker) {
    const auto next = std::upper_bound(first_task_.begin(), first_task_.end(), task);
    const auto pass_index = std::distance(first_task_.begin(), next) - 1;
    const auto p = static_cast<size_t>(pass_index);
    body(passes[p], pass_index, task - first_task_[p], worker);
  });
}

void SlicedFfnRunner::RunInOneRegion(std::span<const FfnPass> passes) {
  const int64_t hidden = limits_.hidden;
  for (size_t p = 0; p < passes.size(); ++p) {
    const FfnPass& pass = passes[p];
    for (int64_t t = 0; t < pass.tokens; ++t) {
      outputs_[static_cast<size_t>(pass.first_slot + t)] = {y_ + (first_row_[p] + t) * hidden,
                                                            pass.ffn->num_slices(), pass.tokens * hidden};
    }
  }
  ForEachSlice(passes, [&](const FfnPass& pass, int64_t pass_index, int64_t slice, int worker) {
    GateUp(pass, pass_index, slice, worker);
    const PackedMatrix down = pass.ffn->Down(slice);
    const int64_t row = first_row_[static_cast<size_t>(pass_index)] + slice * pass.tokens;
    ops_.kernels().mat_mul({.w = down,
                            .panel_end = down.num_panels(),
                            .rounding = RoundingOf(pass),
                            .tokens = pass.tokens,
                            .x = PackedH(pass, pass_index, slice),
                            .y = y_ + row * hidden,
                            .y_stride = hidden});
  });
}

void SlicedFfnRunner::RunInTwoRegions(std::span<const FfnPass> passes) {
  const int64_t hidden = limits_.hidden;
  ForEachSlice(passes, [&](const FfnPass& pass, int64_t pass_index, int64_t slice, int worker) {
    GateUp(pass, pass_index, slice, worker);
  });
  const int64_t panels = (hidden + kPanelRows - 1) / kPanelRows;
  const int64_t tasks = (panels + kPanelsPerTask - 1) / kPanelsPerTask;
  ops_.pool().ParallelFor(static_cast<int64_t>(passes.size()) * tasks, [&](int64_t task, int) {
    const int64_t pass_index = task / tasks;
    const FfnPass& pass = passes[static_cast<size_t>(pass_index)];
    const int64_t begin = task % tasks * kPanelsPerTask;
    ops_.kernels().mat_mul({.w = pass.ffn->Down(0),
                            .panel_begin = begin,
                            .panel_end = std::min(begin + kPanelsPerTask, panels),
                            .rounding = RoundingOf(pass),
                            .tokens = pass.tokens,
                            .x = PackedH(pass, pass_index, 0),
                            .segments = pass.ffn->num_slices(),
                            .w_segment_bytes = pass.ffn->slice_bytes(),
                            .x_segment_bytes = pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons),
                            .y = y_ + pass.first_slot * hidden,
                            .y_stride = hidden});
  });
  for (const FfnPass& pass : passes) {
    for (int64_t slot = pass.first_slot; slot < pass.first_slot + pass.tokens; ++slot)
      outputs_[static_cast<size_t>(slot)] = {y_ + slot * hidden, 1, 0};
  }
}

void SlicedFfnRunner::AddOutput(int64_t slot, float weight, int64_t begin, int64_t end, float* out) const {
  const Output& output = outputs_[static_cast<size_t>(slot)];
  ops_.kernels().add_rows({.rows = output.rows,
                           .cols = end - begin,
                           .x = output.first + begin,
                           .x_stride = output.stride,
                           .scale = weight,
                           .y = out + begin});
}

}  // namespace fiddler
