#include "device/emulated_ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/route.h"

namespace fiddler::emulated {
namespace {

// Numbers that an elementwise operation gives a thread.
constexpr int64_t kGrain = 1 << 14;

// Of what is neither matrix nor slice nor cache.
constexpr uint64_t kAnyAlignment = 4;

// Rows that are worth one task.
int64_t RowsPerTask(int64_t cols) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cols)); }

}  // namespace

std::byte* Scratch::Bytes(int64_t bytes) {
  if (bytes > bytes_) {
    data_.reset();
    bytes_ = 0;
    data_.reset(static_cast<std::byte*>(::operator new (static_cast<size_t>(bytes), std::align_val_t{64})));
    bytes_ = bytes;
  }
  return data_.get();
}

void EmulatedOps::Run(const Operation& operation) {
  std::visit([this](const auto& args) { Do(args); }, operation);
}

void EmulatedOps::Run(const Clear& clear) {
  workers_.Fill(memory_.Translate(clear.to, clear.bytes, kAnyAlignment, "clear: to"), 0, clear.bytes);
}

void EmulatedOps::Begin(const Copy& copy) {
  if (!copy.to_device) return;
  workers_.Fill(memory_.Translate(copy.device, copy.bytes, kAnyAlignment, "copy_in: to"), kPoison,
                copy.bytes);
}

void EmulatedOps::End(const Copy& copy) {
  std::byte* const device = memory_.Translate(copy.device, copy.bytes, kAnyAlignment,
                                              copy.to_device ? "copy_in: to" : "copy_out: from");
  if (copy.to_device) {
    workers_.Copy(device, copy.host, copy.bytes);
  } else {
    workers_.Copy(copy.host, device, copy.bytes);
  }
}

void EmulatedOps::Do(const FiddlerRmsNorm& args) {
  const Operands operands(memory_, "rms_norm");
  operands.RequireSize("rows", args.rows, 0);
  operands.RequireSize("cols", args.cols, 1);
  const RmsNormArgs all = {.rows = args.rows,
                           .cols = args.cols,
                           .x = operands.Floats(args.x, args.rows * args.cols, "x"),
                           .x_stride = args.cols,
                           .y = operands.Floats(args.y, args.rows * args.cols, "y"),
                           .y_stride = args.cols,
                           .weight = operands.Floats(args.weight, args.cols, "weight"),
                           .epsilon = args.epsilon};
  workers_.ForEachPiece(args.rows, RowsPerTask(args.cols), [&](int64_t begin, int64_t end, int) {
    RmsNormArgs part = all;
    part.rows = end - begin;
    part.x += begin * args.cols;
    part.y += begin * args.cols;
    kernels_.rms_norm(part);
  });
}

void EmulatedOps::Pack(PackArgs args) {
  const int64_t tiles = kernels_.num_tiles(args.rounding, args.tokens);
  workers_.ForEachPiece(tiles, RowsPerTask(args.cols), [&](int64_t begin, int64_t end, int) {
    PackArgs part = args;
    part.tile_begin = begin;
    part.tile_end = end;
    kernels_.pack(part);
  });
}

void EmulatedOps::Do(const FiddlerMatMul& args) {
  const Operands operands(memory_, "mat_mul");
  operands.RequireSize("tokens", args.tokens, 0);
  const PackedMatrix w = operands.Matrix(args.w, "w");
  const Rounding rounding = operands.RoundingOf(args.rounding, w.format);
  const int32_t* row_index = nullptr;
  int64_t x_rows = args.tokens;
  if (args.row_index != 0) {
    const std::span<const int32_t> rows = operands.Ints(args.row_index, args.tokens, "row_index");
    x_rows = operands.RowsNeeded(rows, "row_index");
    row_index = rows.data();
  }
  const float* const x = operands.Floats(args.x, x_rows * w.cols, "x");
  const float* const bias = operands.FloatsIfAny(args.bias, w.rows, "bias");
  float* const y = operands.Floats(args.y, args.tokens * w.rows, "y");
  operands.RequireApart(x, x_rows * w.cols, y, args.tokens * w.rows, "x and y");
  if (args.tokens == 0) return;

  std::byte* const packed = packed_.Bytes(args.tokens * PackedTokenBytes(w.cols));
  Pack({.rounding = rounding,
        .tokens = args.tokens,
        .cols = w.cols,
        .x = x,
        .x_stride = w.cols,
        .row_index = row_index,
        .packed = packed});
  // Many tokens: all of packed x is read once a task.
  const int64_t panels =
      args.tokens < 32 ? 1 : std::clamp<int64_t>(w.num_panels() / (4 * workers_.count()), 1, 16);
  workers_.ForEachPiece(w.num_panels(), panels, [&](int64_t begin, int64_t end, int) {
    kernels_.mat_mul({.w = w,
                      .panel_begin = begin,
                      .panel_end = end,
                      .rounding = rounding,
                      .tokens = args.tokens,
                      .x = packed,
                      .bias = bias,
                      .y = y,
                      .y_stride = w.rows});
  });
}

void EmulatedOps::Do(const FiddlerAdd& args) {
  const Operands operands(memory_, "add");
  operands.RequireSize("count", args.count, 0);
  const float* const x = operands.Floats(args.x, args.count, "x");
  float* const y = operands.Floats(args.y, args.count, "y");
  workers_.ForEachPiece(args.count, kGrain, [&](int64_t begin, int64_t end, int) {
    kernels_.add(end - begin, x + begin, y + begin);
  });
}

void EmulatedOps::Do(const FiddlerSigmoid& args) {
  const Operands operands(memory_, "sigmoid");
  operands.RequireSize("count", args.count, 0);
  float* const x = operands.Floats(args.x, args.count, "x");
  for (int64_t i = 0; i < args.count; ++i) x[i] = 1.0f / (1.0f + std::exp(-x[i]));
}

void EmulatedOps::Do(const FiddlerRoute& args) {
  const Operands operands(memory_, "route");
  operands.RequireSize("tokens", args.tokens, 0);
  operands.RequireSize("num_experts", args.num_experts, 1);
  operands.RequireSize("top_k", args.top_k, 1, args.num_experts);
  float* const logits = operands.Floats(args.logits, args.tokens * args.num_experts, "logits");
  std::byte* const experts =
      operands.Bytes(args.experts, args.tokens * args.top_k * static_cast<int64_t>(sizeof(int32_t)),
                     "experts", alignof(int32_t));
  float* const weights = operands.Floats(args.weights, args.tokens * args.top_k, "weights");
  for (int64_t t = 0; t < args.tokens; ++t) {
    Route({.num_experts = args.num_experts,
           .top_k = args.top_k,
           .renormalize = args.renormalize != 0,
           .logits = logits + t * args.num_experts,
           .experts = reinterpret_cast<int32_t*>(experts) + t * args.top_k,
           .weights = weights + t * args.top_k});
  }
}

void EmulatedOps::Do(const ReadProbe& probe) {
  const Operands operands(memory_, "read_probe");
  const auto bytes = static_cast<int64_t>(probe.bytes / 16 * 16);
  const std::byte* const data = operands.Bytes(probe.data, bytes, "data");
  constexpr int64_t kPiece = 1 << 20;
  workers_.ForEachPiece(bytes, kPiece, [&](int64_t begin, int64_t end, int) {
    kernels_.read_probe((end - begin) / static_cast<int64_t>(sizeof(float)),
                        reinterpret_cast<const float*>(data + begin));
  });
}

void EmulatedOps::Do(const ProductProbe& probe) {
  workers_.ForEach(workers_.count(), [&](int64_t, int) { kernels_.bf16_probe(probe.rounds); });
}

double EmulatedOps::OperationsOf(const ProductProbe& probe) const {
  // As the probe itself counts them, in proportion to its rounds.
  return kernels_.bf16_probe(1) * static_cast<double>(probe.rounds * workers_.count());
}

}  // namespace fiddler::emulated
