// Runs gated FFNs that are packed as slices, on all threads: y = down(silu(gate x) * (up x)) for the tokens
// of every FFN that has some (a pass: an expert with its tokens, a shared expert, a dense FFN).
//
// The sum over neurons has one order, whatever else is in the batch and however the work is split: the
// neurons of a slice in order, then the slices in order. So a token's result is the same in a batch and
// alone.
//
// Few tokens: a task is a slice, from x to its share of y, in one parallel region; memory is read once, as it
// lies. Many: the shares would be more bytes than the weights, so that tasks first make the activations of a
// slice, and, after a barrier, runs of output rows through all slices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/parallel_ops.h"
#include "engine/workspace.h"
#include "experts/slice.h"

namespace fiddler {

// One FFN and the slots (places in the result) of the tokens that pass it.
struct FfnPass {
  const SlicedFfn* ffn = nullptr;
  int64_t first_slot = 0;
  int64_t tokens = 0;
  const int32_t* token_index = nullptr;  // row of x of each token, or null: row t
};

struct SlicedFfnLimits {
  int64_t hidden = 0;
  int64_t tokens = 0;         // of one pass
  int64_t slots = 0;          // of one run
  int64_t slice_neurons = 0;  // of the largest slice
  int64_t slot_neurons = 0;   // slots times padded neurons, of the run where that is most
};

class SlicedFfnRunner {
 public:
  // Both references must outlive this object. Throws Error if memory is short.
  SlicedFfnRunner(const SlicedFfnLimits& limits, const ParallelOps& ops, Workspace& workspace);

  // x [.., hidden]. The passes' slots are [0, number of slots), in order. `same_x`: all passes are for row 0.
  void Run(std::span<const FfnPass> passes, const float* x, bool same_x);

  // out[c] += weight * y[slot][c] of the last run, for columns [begin, end). Any thread.
  void AddOutput(int64_t slot, float weight, int64_t begin, int64_t end, float* out) const;

 private:
  // y of a slot: the sum of `rows` rows.
  struct Output {
    const float* first;
    int64_t rows;
    int64_t stride;
  };

  Rounding RoundingOf(const FfnPass& pass) const { return ops_.RoundingFor(pass.ffn->format); }
  const std::byte* PackedX(const FfnPass& pass) const;
  std::byte* PackedH(const FfnPass& pass, int64_t pass_index, int64_t slice) const;
  void PackX(std::span<const FfnPass> passes, const float* x, bool same_x);
  // Activations of one slice, packed for its down matrix.
  void GateUp(const FfnPass& pass, int64_t pass_index, int64_t slice, int worker);
  // body(pass, its index, slice, worker) for every slice of every pass, in parallel.
  template <typename Body>
  void ForEachSlice(std::span<const FfnPass> passes, const Body& body);
  void RunInOneRegion(std::span<const FfnPass> passes);
  void RunInTwoRegions(std::span<const FfnPass> passes);

  const SlicedFfnLimits limits_;
  const ParallelOps& ops_;
  std::byte* x_;                     // [slots, PackedTokenBytes(hidden)]
  std::byte* h_;                     // for each pass [slices, tokens, PackedTokenBytes(slice_neurons)]
  float* worker_h_;                  // [threads, tokens, slice_neurons]
  float* y_;                         // [slots, hidden], or shares of it [rows, hidden]
  int64_t max_rows_;                 // of y_
  bool same_x_ = false;              // in the last run
  std::vector<int64_t> first_h_;     // [passes], bytes
  std::vector<int64_t> first_row_;   // [passes], of y_
  std::vector<int64_t> first_task_;  // [passes], of ForEachSlice
  std::vector<Output> outputs_;      // [slots]
};

}  // namespace fiddler
