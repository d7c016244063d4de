// Gated FFNs of the emulated device. Sums have the order of engine/sliced_ffn.h: the neurons of a slice, then
// the slices of an entry, then the entries; so an FFN given as one entry comes out as on the CPU, to the last
// bit.
#include <algorithm>

#include "device/emulated_ops.h"

namespace fiddler::emulated {
namespace {

constexpr int64_t kNeuronGrain = 64;  // experts/slice.h

// Columns of out that a task computes. 16 panels of a slice's down matrix are one block
// (kernels/cpu/panel.h).
constexpr int64_t kFfnColumns = 16 * kPanelRows;

// Where an entry has its operands and its part of the scratch memory.
struct Entry {
  const std::byte* slices;
  int64_t num_slices;
  int64_t tokens;
  const int32_t* rows;   // or null
  const float* weights;  // or null
  std::byte* x;          // [tokens, PackedTokenBytes(hidden)]
  std::byte* h;          // [num_slices, tokens, PackedTokenBytes(slice_neurons)]
  int64_t first_task;    // of activations: one a slice
};

}  // namespace

FfnWork::FfnWork(const FiddlerFfn& ffn) : args(ffn) {
  args.entries = nullptr;
  for (int64_t i = 0; i < ffn.num_entries; ++i) {
    const FiddlerSlices& from = ffn.entries[i];
    if (from.tokens < 0 || from.tokens > (1 << 30)) throw Error("ffn: an entry of {} tokens", from.tokens);
    Slices& slices = entries.emplace_back();
    slices.args = from;
    slices.has_rows = from.rows != nullptr;
    slices.has_weights = from.weights != nullptr;
    if (slices.has_rows) slices.rows.assign(from.rows, from.rows + from.tokens);
    if (slices.has_weights) slices.weights.assign(from.weights, from.weights + from.tokens);
    slices.args.rows = nullptr;
    slices.args.weights = nullptr;
  }
}

void EmulatedOps::Do(const std::shared_ptr<const FfnWork>& work) {
  const Operands operands(memory_, "ffn");
  const FiddlerFfn& args = work->args;
  operands.RequireSize("hidden", args.hidden, 1);
  operands.RequireSize("slice_neurons", args.slice_neurons, kNeuronGrain);
  if (args.slice_neurons % kNeuronGrain != 0) operands.Fail("slices of {} neurons", args.slice_neurons);
  PackedMatrix gate_up = {.data = nullptr,
                          .format = operands.Format(args.format),
                          .rows = 2 * args.slice_neurons,
                          .cols = args.hidden};
  PackedMatrix down = {
      .data = nullptr, .format = gate_up.format, .rows = args.hidden, .cols = args.slice_neurons};
  const auto gate_up_bytes = static_cast<int64_t>(gate_up.bytes());
  operands.RequireSize("slice_bytes", args.slice_bytes, gate_up_bytes + static_cast<int64_t>(down.bytes()));
  if (args.slice_bytes % 64 != 0) operands.Fail("slice_bytes {} is no multiple of 64", args.slice_bytes);
  const Rounding rounding = operands.RoundingOf(args.rounding, gate_up.format);
  const int64_t x_token_bytes = PackedTokenBytes(args.hidden);
  const int64_t h_token_bytes = PackedTokenBytes(args.slice_neurons);

  // 1. All operands, before any is touched.
  std::vector<Entry> entries;
  int64_t x_rows = 0;  // of x and out
  int64_t x_tokens = 0;
  int64_t h_tokens = 0;
  int64_t tasks = 0;
  int64_t most_tokens = 0;
  for (const FfnWork::Slices& from : work->entries) {
    const int64_t tokens = from.args.tokens;
    const int64_t num_slices = from.args.num_slices;
    operands.RequireSize("num_slices", num_slices, 0, 1 << 20);
    if (tokens == 0 || num_slices == 0) continue;
    const float* const weights = from.has_weights
                                     ? from.weights.data()
                                     : operands.FloatsIfAny(from.args.weights_on_device, tokens, "weights");
    entries.push_back(
        {.slices = operands.Bytes(from.args.slice, num_slices * args.slice_bytes, "slice", Operands::kLine),
         .num_slices = num_slices,
         .tokens = tokens,
         .rows = from.has_rows ? from.rows.data() : nullptr,
         .weights = weights,
         .x = nullptr,
         .h = nullptr,
         .first_task = tasks});
    x_rows = std::max(x_rows, from.has_rows ? operands.RowsNeeded(from.rows, "rows") : tokens);
    x_tokens += tokens;
    h_tokens += tokens * num_slices;
    tasks += num_slices;
    most_tokens = std::max(most_tokens, tokens);
  }
  const float* const x = operands.Floats(args.x, x_rows * args.hidden, "x");
  float* const out = operands.Floats(args.out, x_rows * args.hidden, "out");
  operands.RequireApart(x, x_rows * args.hidden, out, x_rows * args.hidden, "x and out");
  if (entries.empty()) return;

  // 2. x of every entry, packed.
  std::byte* next_x = packed_.Bytes(x_tokens * x_token_bytes);
  std::byte* next_h = packed_h_.Bytes(h_tokens * h_token_bytes);
  for (Entry& entry : entries) {
    entry.x = next_x;
    entry.h = next_h;
    next_x += entry.tokens * x_token_bytes;
    next_h += entry.num_slices * entry.tokens * h_token_bytes;
    Pack({.rounding = rounding,
          .tokens = entry.tokens,
          .cols = args.hidden,
          .x = x,
          .x_stride = args.hidden,
          .row_index = entry.rows,
          .packed = entry.x});
  }

  // 3. Activations, a slice a task.
  const int64_t worker_floats = most_tokens * std::max(args.slice_neurons, kFfnColumns);
  float* const per_worker = per_worker_.Floats(workers_.count() * worker_floats);
  workers_.ForEach(tasks, [&](int64_t task, int worker) {
    const auto after = std::upper_bound(entries.begin(), entries.end(), task,
                                        [](int64_t t, const Entry& entry) { return t < entry.first_task; });
    const Entry& entry = *std::prev(after);
    const int64_t slice = task - entry.first_task;
    PackedMatrix w = gate_up;
    w.data = entry.slices + slice * args.slice_bytes;
    float* const h = per_worker + worker * worker_floats;
    kernels_.gate_up({.w = w,
                      .panel_end = w.num_panels(),
                      .rounding = rounding,
                      .tokens = entry.tokens,
                      .x = entry.x,
                      .h = h,
                      .h_stride = args.slice_neurons});
    kernels_.pack({.rounding = rounding,
                   .tokens = entry.tokens,
                   .cols = args.slice_neurons,
                   .x = h,
                   .x_stride = args.slice_neurons,
                   .tile_end = kernels_.num_tiles(rounding, entry.tokens),
                   .packed = entry.h + slice * entry.tokens * h_token_bytes});
  });

  // 4. Columns of out, through all slices of all entries.
  workers_.ForEachPiece(down.num_panels(), kFfnColumns / kPanelRows,
                        [&](int64_t begin, int64_t end, int worker) {
                          float* const y = per_worker + worker * worker_floats;
                          for (const Entry& entry : entries) {
                            PackedMatrix w = down;
                            w.data = entry.slices + gate_up_bytes;
                            w = w.Panels(begin, end);
                            kernels_.mat_mul({.w = w,
                                              .panel_end = w.num_panels(),
                                              .rounding = rounding,
                                              .tokens = entry.tokens,
                                              .x = entry.h,
                                              .segments = entry.num_slices,
                                              .w_segment_bytes = args.slice_bytes,
                                              .x_segment_bytes = entry.tokens * h_token_bytes,
                                              .y = y,
                                              .y_stride = w.rows});
                            for (int64_t t = 0; t < entry.tokens; ++t) {
                              const int64_t row = entry.rows ? entry.rows[t] : t;
                              kernels_.add_rows({.rows = 1,
                                                 .cols = w.rows,
                                                 .x = y + t * w.rows,
                                                 .scale = entry.weights ? entry.weights[t] : 1.0f,
                                                 .y = out + row * args.hidden + begin * kPanelRows});
                            }
                          }
                        });
}

}  // namespace fiddler::emulated
