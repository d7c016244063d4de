#include "engine/sliced_ffn.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace fiddler {
namespace {

int64_t RowOf(const FfnPass& pass, int64_t t) { return pass.token_index ? pass.token_index[t] : t; }

float WeightOf(const FfnPass& pass, int64_t t) { return pass.weights ? pass.weights[t] : 1.0f; }

}  // namespace

SlicedFfnRunner::SlicedFfnRunner(const SlicedFfnLimits& limits, const ParallelOps& ops, Workspace& workspace)
    : limits_(limits),
      ops_(ops),
      panels_per_task_(
          PanelsPerTask((limits.hidden + kPanelRows - 1) / kPanelRows, ops.pool().num_threads())),
      x_(workspace.Bytes(limits.slots * PackedTokenBytes(limits.hidden))),
      h_(workspace.Bytes(limits.slot_neurons * static_cast<int64_t>(sizeof(float)))),
      worker_h_(workspace.Floats(ops.pool().num_threads() * limits.tokens * limits.slice_neurons)),
      worker_y_(workspace.Floats(ops.pool().num_threads() * limits.tokens * panels_per_task_ * kPanelRows)),
      shares_(reinterpret_cast<float*>(workspace.Bytes(kShareBytes))) {
  places_.reserve(static_cast<size_t>(limits.slots));
}

void SlicedFfnRunner::Run(std::span<const FfnPass> passes, int64_t tokens, const float* x, float* out,
                          Out mode) {
  places_.clear();
  Place next = {};
  for (const FfnPass& pass : passes) {
    places_.push_back(next);
    const int64_t slices = pass.ffn->num_slices();
    next.first_slot += pass.tokens;
    next.h_begin += slices * pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons);
    next.first_row += slices * pass.tokens;
    next.first_task += slices;
  }
  CHECK(next.first_slot <= limits_.slots && next.h_begin <= limits_.slot_neurons * int64_t{sizeof(float)},
        "{} slots, {} bytes", next.first_slot, next.h_begin);
  one_x_ = tokens == 1 && std::ranges::all_of(passes, [&](const FfnPass& pass) {
             return RoundingOf(pass) == RoundingOf(passes.front());
           });
  PackX(passes, x);
  const bool few = next.first_row * limits_.hidden * int64_t{sizeof(float)} <= kShareBytes;
  few ? RunInShares(passes, tokens, out, mode) : RunInColumns(passes, tokens, out, mode);
}

const std::byte* SlicedFfnRunner::PackedX(size_t pass) const {
  return one_x_ ? x_ : x_ + places_[pass].first_slot * PackedTokenBytes(limits_.hidden);
}

std::byte* SlicedFfnRunner::PackedH(const FfnPass& pass, size_t index, int64_t slice) const {
  return h_ + places_[index].h_begin + slice * pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons);
}

void SlicedFfnRunner::PackX(std::span<const FfnPass> passes, const float* x) {
  const auto pack = [&](size_t index, int64_t part, int64_t parts) {
    const FfnPass& pass = passes[index];
    const Range tiles = SplitRange(ops_.kernels().num_tiles(RoundingOf(pass), pass.tokens), parts, part);
    ops_.kernels().pack({.rounding = RoundingOf(pass),
                         .tokens = pass.tokens,
                         .cols = limits_.hidden,
                         .x = x,
                         .x_stride = limits_.hidden,
                         .row_index = pass.token_index,
                         .tile_begin = tiles.begin,
                         .tile_end = tiles.end,
                         .packed = x_ + places_[index].first_slot * PackedTokenBytes(limits_.hidden)});
  };
  if (one_x_) return pack(0, 0, 1);
  constexpr int64_t kParts = 8;  // of a pass, which may be the only one: some for each of a few threads
  ops_.pool().ParallelFor(static_cast<int64_t>(passes.size()) * kParts, [&](int64_t task, int) {
    pack(static_cast<size_t>(task / kParts), task % kParts, kParts);
  });
}

void SlicedFfnRunner::GateUp(const FfnPass& pass, size_t index, int64_t slice, int worker) {
  const int64_t neurons = pass.ffn->slice_neurons;
  const Rounding rounding = RoundingOf(pass);
  const PackedMatrix w = pass.ffn->GateUp(slice);
  float* const h = worker_h_ + worker * limits_.tokens * limits_.slice_neurons;
  ops_.kernels().gate_up({.w = w,
                          .panel_end = w.num_panels(),
                          .rounding = rounding,
                          .tokens = pass.tokens,
                          .x = PackedX(index),
                          .h = h,
                          .h_stride = neurons});
  ops_.kernels().pack({.rounding = rounding,
                       .tokens = pass.tokens,
                       .cols = neurons,
                       .x = h,
                       .x_stride = neurons,
                       .tile_end = ops_.kernels().num_tiles(rounding, pass.tokens),
                       .packed = PackedH(pass, index, slice)});
}

template <typename Body>
void SlicedFfnRunner::ForEachSlice(std::span<const FfnPass> passes, const Body& body) {
  const int64_t tasks = places_.back().first_task + passes.back().ffn->num_slices();
  ops_.pool().ParallelFor(tasks, [&](int64_t task, int worker) {
    const auto after = std::upper_bound(places_.begin(), places_.end(), task,
                                        [](int64_t t, const Place& place) { return t < place.first_task; });
    const auto index = static_cast<size_t>(std::distance(places_.begin(), after) - 1);
    body(passes[index], index, task - places_[index].first_task, worker);
  });
}

void SlicedFfnRunner::RunInShares(std::span<const FfnPass> passes, int64_t tokens, float* out, Out mode) {
  const int64_t hidden = limits_.hidden;
  ForEachSlice(passes, [&](const FfnPass& pass, size_t index, int64_t slice, int worker) {
    GateUp(pass, index, slice, worker);
    const PackedMatrix down = pass.ffn->Down(slice);
    ops_.kernels().mat_mul({.w = down,
                            .panel_end = down.num_panels(),
                            .rounding = RoundingOf(pass),
                            .tokens = pass.tokens,
                            .x = PackedH(pass, index, slice),
                            .y = shares_ + (places_[index].first_row + slice * pass.tokens) * hidden,
                            .y_stride = hidden});
  });
  constexpr int64_t kParts = 16;  // at 4096 columns a part is a KiB of every share
  ops_.pool().ParallelFor(kParts, [&](int64_t part, int) {
    const auto [begin, end] = SplitRange(hidden, kParts, part, /*grain=*/kPanelRows);
    for (int64_t t = 0; t < tokens && mode == Out::kSet; ++t) {
      std::fill(out + t * hidden + begin, out + t * hidden + end, 0.0f);
    }
    for (size_t p = 0; p < passes.size(); ++p) {
      const FfnPass& pass = passes[p];
      for (int64_t t = 0; t < pass.tokens; ++t) {
        ops_.kernels().add_rows({.rows = pass.ffn->num_slices(),
                                 .cols = end - begin,
                                 .x = shares_ + (places_[p].first_row + t) * hidden + begin,
                                 .x_stride = pass.tokens * hidden,
                                 .scale = WeightOf(pass, t),
                                 .y = out + RowOf(pass, t) * hidden + begin});
      }
    }
  });
}

void SlicedFfnRunner::RunInColumns(std::span<const FfnPass> passes, int64_t tokens, float* out, Out mode) {
  const int64_t hidden = limits_.hidden;
  ForEachSlice(passes, [&](const FfnPass& pass, size_t index, int64_t slice, int worker) {
    GateUp(pass, index, slice, worker);
  });
  const int64_t columns_per_task = panels_per_task_ * kPanelRows;
  const int64_t tasks = (hidden + columns_per_task - 1) / columns_per_task;
  ops_.pool().ParallelFor(tasks, [&](int64_t task, int worker) {
    const int64_t begin = task * columns_per_task;
    const int64_t columns = std::min(columns_per_task, hidden - begin);
    float* const y = worker_y_ + worker * limits_.tokens * columns_per_task;
    for (int64_t t = 0; t < tokens && mode == Out::kSet; ++t) {
      std::fill_n(out + t * hidden + begin, columns, 0.0f);
    }
    for (size_t p = 0; p < passes.size(); ++p) {
      const FfnPass& pass = passes[p];
      const auto rows_of = [&](const FfnPass& of) {
        const PackedMatrix down = of.ffn->Down(0);
        return down.Panels(task * panels_per_task_,
                           std::min((task + 1) * panels_per_task_, down.num_panels()));
      };
      const PackedMatrix rows = rows_of(pass);
      ops_.kernels().mat_mul({.w = rows,
                              .panel_end = rows.num_panels(),
                              .rounding = RoundingOf(pass),
                              .tokens = pass.tokens,
                              .x = PackedH(pass, p, 0),
                              .segments = pass.ffn->num_slices(),
                              .w_segment_bytes = pass.ffn->slice_bytes(),
                              .x_segment_bytes = pass.tokens * PackedTokenBytes(pass.ffn->slice_neurons),
                              .y = y,
                              .y_stride = columns,
                              .next = p + 1 < passes.size() ? rows_of(passes[p + 1]).data : nullptr});
      for (int64_t t = 0; t < pass.tokens; ++t) {
        ops_.kernels().add_rows({.rows = 1,
                                 .cols = columns,
                                 .x = y + t * columns,
                                 .scale = WeightOf(pass, t),
                                 .y = out + RowOf(pass, t) * hidden + begin});
      }
    }
  });
}

}  // namespace fiddler
