// Runs gated FFNs that are packed as slices, on all threads: y = down(silu(gate x) * (up x)) for the tokens
// of every FFN that has some (a pass: an expert with its tokens, a shared expert, a dense FFN).
//
// Sums have one order, whatever else is in the batch and however the work is split: the neurons of a slice in
// order, then the slices in order, then the passes of a token in order. So a token's result is the same in a
// batch and alone.
//
// Few tokens: a task is a slice, from x to its share of y; memory is read once, as it lies. Many: the shares
// would be more bytes than the weights, so that tasks first make the activations of a slice, and, after a
// barrier, columns of y through all slices of all passes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/parallel_ops.h"
#include "engine/workspace.h"
#include "experts/slice.h"

namespace fiddler {

// One FFN and the tokens that pass it.
struct FfnPass {
  const SlicedFfn* ffn = nullptr;
  int64_t tokens = 0;
  const int32_t* token_index = nullptr;  // rows of x and out, or null: 0, 1, ...
  const float* weights = nullptr;        // [tokens], what y is multiplied with; or null: 1
};

struct SlicedFfnLimits {
  int64_t hidden = 0;
  int64_t tokens = 0;         // of one pass
  int64_t slots = 0;          // of one run: tokens, counted once for each pass
  int64_t slice_neurons = 0;  // of the largest slice
  int64_t slot_neurons = 0;   // slots times padded neurons, of the run where that is most
};

class SlicedFfnRunner {
 public:
  // Shares that one run may write: as much as stays in the cores' caches next to the weights that stream by.
  // What needs more runs by columns.
  static constexpr int64_t kShareBytes = 8 << 20;

  // Both references must outlive this object. Throws Error if memory is short.
  SlicedFfnRunner(const SlicedFfnLimits& limits, const ParallelOps& ops, Workspace& workspace);

  // Whether a run is the first of a layer, or goes on where the one before ended: the same bits as one run of
  // all passes.
  enum class Out : uint8_t { kSet, kAddTo };

  // out[t] = sum over the passes of token t of weight * y, for rows [0, tokens) of x and out, [tokens,
  // hidden]; or out[t] += that.
  void Run(std::span<const FfnPass> passes, int64_t tokens, const float* x, float* out, Out mode = Out::kSet);

 private:
  // Where a pass has its part of the buffers.
  struct Place {
    int64_t first_slot;
    int64_t h_begin;    // bytes
    int64_t first_row;  // of the shares
    int64_t first_task;
  };

  Rounding RoundingOf(const FfnPass& pass) const { return ops_.RoundingFor(pass.ffn->format); }
  const std::byte* PackedX(size_t pass) const;
  std::byte* PackedH(const FfnPass& pass, size_t index, int64_t slice) const;
  void PackX(std::span<const FfnPass> passes, const float* x);
  // Activations of one slice, packed for its down matrix.
  void GateUp(const FfnPass& pass, size_t index, int64_t slice, int worker);
  // body(pass, its index, slice, worker) for every slice of every pass, in parallel.
  template <typename Body>
  void ForEachSlice(std::span<const FfnPass> passes, const Body& body);
  void RunInShares(std::span<const FfnPass> passes, int64_t tokens, float* out, Out mode);
  void RunInColumns(std::span<const FfnPass> passes, int64_t tokens, float* out, Out mode);

  const SlicedFfnLimits limits_;
  const ParallelOps& ops_;
  const int64_t panels_per_task_;  // of columns
  std::byte* x_;                   // [slots, PackedTokenBytes(hidden)]
  std::byte* h_;                   // for each pass [slices, tokens, PackedTokenBytes(slice_neurons)]
  float* worker_h_;                // [threads, tokens, slice_neurons]
  float* worker_y_;                // [threads, tokens, columns of a task]
  float* shares_;                  // for each pass [slices, tokens, hidden]
  bool one_x_ = false;             // all passes have the same x, packed once
  std::vector<Place> places_;      // [passes] of the current run
};

}  // namespace fiddler
