// The vocabulary of computation: what every set of CPU kernels offers, as plain structs and one table of
// functions.
//
// Conventions. Activations are float32, row-major, one token a row; a stride is counted in elements. Weights
// are packed (packed_matrix.h). A product takes its x packed too: rounded to what the arithmetic of the
// weights' format takes and laid out for one set of kernels by its own pack. Sums are float32 or wider. A
// kernel computes the range it is given on the calling thread and touches nothing else: who splits work over
// threads is the engine. Pointers need the alignment of their element, packed ones that of a cache line. No
// kernel allocates or throws.
//
// Guarantee. What a kernel computes for a token depends on that token alone, to the last bit: not on the
// range, on the other tokens of the call, or on how they are blocked. So a batch equals its tokens alone, and
// a prompt gives the same in chunks of any size.
// Values. NaNs and infinities, in x or weights, come out as in float32, but that an infinity in a group of x
// rounded to int8 makes all of it NaNs. Subnormals are numbers like others, except where BF16 instructions
// take them for zeros (x, weights and sums of Rounding::kBF16) and in groups of int8 whose largest magnitude
// is below 2^-100, which are zeros.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/kv_view.h"
#include "kernels/packed_matrix.h"

namespace fiddler {

// What x is rounded to before a product.
enum class Rounding : uint8_t {
  kNone,         // float32: any weights
  kBF16,         // to nearest even: BF16 weights
  kInt8Group64,  // a multiple of (largest magnitude of 64 columns) / 127: INT8 weights
  kInt8Group32,  // the same of 32 columns: INT4 weights
};

// The rounding that the fastest arithmetic for weights of this format asks for.
constexpr Rounding FastRounding(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBF16:
      return Rounding::kBF16;
    case WeightFormat::kInt8:
      return Rounding::kInt8Group64;
    case WeightFormat::kInt4:
      return Rounding::kInt8Group32;
    default:
      return Rounding::kNone;
  }
}

// Bytes of one packed token in any set of kernels, a multiple of 64: a tile of tokens begins at its first
// token times this.
[[gnu::always_inline]] inline constexpr int64_t PackedTokenBytes(int64_t cols) {
  return (cols + 63) / 64 * 64 * 4;
}

// Packs x for MatMul and GateUp, some tiles of its tokens: tile i of CpuKernels::num_tiles(tokens).
struct PackArgs {
  Rounding rounding = Rounding::kNone;
  int64_t tokens = 0;
  int64_t cols = 0;
  const float* x = nullptr;  // [.., cols]
  int64_t x_stride = 0;
  const int32_t* row_index = nullptr;  // [tokens]: token t is row row_index[t] of x; or null: row t
  int64_t tile_begin = 0;
  int64_t tile_end = 0;
  std::byte* packed = nullptr;  // [tokens, PackedTokenBytes(cols)]
};

// y[t, r] = sum_k x[t, k] * w[r, k] + bias[r], for all tokens t and the rows r of some panels of w. A product
// may come in segments along k: each is summed by itself, then they are added in order.
struct MatMulArgs {
  PackedMatrix w;  // of the first segment
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  Rounding rounding = Rounding::kNone;  // kNone or FastRounding(w.format)
  int64_t tokens = 0;
  const std::byte* x = nullptr;  // packed, of the first segment
  int64_t segments = 1;
  int64_t w_segment_bytes = 0;  // from one segment to the next
  int64_t x_segment_bytes = 0;
  const float* bias = nullptr;  // [w.rows] or null
  float* y = nullptr;           // [tokens, w.rows]
  int64_t y_stride = 0;
  // Panels of the same size that the caller needs next: their first bytes may be fetched into the cache.
  // Null: none. Never read.
  const std::byte* next = nullptr;
};

// h[t, n] = silu(gate_n . x[t]) * (up_n . x[t]): the first half of a gated FFN. Panel i of w holds the gate
// rows of neurons [16 i, 16 i + 16), then their up rows.
struct GateUpArgs {
  PackedMatrix w;  // [2 * neurons, hidden]; neurons is a multiple of 16
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  Rounding rounding = Rounding::kNone;  // kNone or FastRounding(w.format)
  int64_t tokens = 0;
  const std::byte* x = nullptr;  // packed
  float* h = nullptr;            // [tokens, neurons]
  int64_t h_stride = 0;
};

// y = x / sqrt(mean(x^2) + epsilon) * weight, each row by itself (RMSNorm, arXiv 1910.07467). y may be x.
struct RmsNormArgs {
  int64_t rows = 0;
  int64_t cols = 0;
  const float* x = nullptr;  // [rows, cols]
  int64_t x_stride = 0;
  float* y = nullptr;  // [rows, cols]
  int64_t y_stride = 0;
  const float* weight = nullptr;  // [cols]
  float epsilon = 0;
};

// y += scale * (x[0] + x[1] + ... + x[rows - 1]), the rows added in order.
struct AddRowsArgs {
  int64_t rows = 1;
  int64_t cols = 0;
  const float* x = nullptr;  // [rows, cols]
  int64_t x_stride = 0;
  float scale = 1;
  float* y = nullptr;  // [cols]
};

// Rotates pairs (i, i + rotary_dim / 2) of each head by the angle of one position (RoPE, arXiv 2104.09864, in
// the half-split pairing of Hugging Face checkpoints). Dimensions from rotary_dim on stay as they are. In
// place.
struct RopeArgs {
  float* x = nullptr;  // [heads, head_dim]
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;
  const float* cos = nullptr;  // [rotary_dim / 2], of this position
  const float* sin = nullptr;  // [rotary_dim / 2]
};

// Stores keys and values of consecutive tokens of one sequence, rounded to the type of the cache. Two calls
// at a time must not write to the same 16 positions (aligned): these share cells and cache lines.
struct KvWriteArgs {
  int64_t tokens = 0;
  int64_t first_position = 0;
  const float* k = nullptr;  // [tokens, kv_heads, head_dim], rows one after another
  const float* v = nullptr;  // the same
  KvView kv;
};

// Causal attention of the query heads that share one KV head, for consecutive tokens of one sequence:
// out[t, h] = softmax_p(scale * q[t, h] . k[p]) v[p], over positions p with
// position(t) - window < p <= position(t), where position(t) = first_position + t; window 0 is no window.
//
// Arithmetic. With BF16 keys and values q is rounded to BF16, and so is each weight 2^(s - m), where s is the
// score times log2(e) and m a whole number near the largest s: rounding is the same whatever m is. Sums are
// float32 or wider, the total of the weights is that of the rounded ones. With F32 nothing is rounded to less
// than float32.
struct AttendArgs {
  int64_t tokens = 0;
  int64_t first_position = 0;
  int64_t window = 0;
  int64_t kv_head = 0;
  int64_t group = 0;         // query heads per KV head: heads [kv_head * group, (kv_head + 1) * group)
  float scale = 0;           // usually 1 / sqrt(head_dim)
  const float* q = nullptr;  // [tokens, heads, head_dim]
  int64_t q_stride = 0;      // elements from one token to the next
  float* out = nullptr;      // [tokens, heads, head_dim]
  int64_t out_stride = 0;
  std::byte* scratch = nullptr;  // AttendScratchBytes(head_dim) of the calling thread, on a cache line
  KvView kv;
};

// Queries (a head of a token) that share one pass over keys and values inside attend.
inline constexpr int64_t kAttendQueries = 128;

// Enough for every set of kernels: per query its q, its sum of values and some numbers.
[[gnu::always_inline]] constexpr int64_t AttendScratchBytes(int64_t head_dim) {
  return (kAttendQueries + 16) * (2 * (head_dim + 32) * 4 + 128);
}

// Attention is computed in segments of positions and merged in their order: attend itself does, and so can
// attend_segment for every segment, on any threads, then attend_merge, with the same result to the last bit.
inline constexpr int64_t kAttendSegment = 512;

// Floats that attend_segment gives for one query: the largest score and the total in the first two, the sum
// of values from kAttendPartialSums on.
inline constexpr int64_t kAttendPartialSums = 16;
[[gnu::always_inline]] constexpr int64_t AttendPartialFloats(int64_t head_dim) {
  return kAttendPartialSums + (head_dim + 31) / 32 * 32;
}

// The half-open range of segments that the tokens look at.
struct SegmentRange {
  int64_t begin;
  int64_t end;
};
[[gnu::always_inline]] constexpr SegmentRange SegmentsOf(int64_t first_position, int64_t tokens,
                                                         int64_t window) {
  const int64_t oldest = window > 0 && first_position >= window ? first_position - window + 1 : 0;
  return {oldest / kAttendSegment, (first_position + tokens - 1) / kAttendSegment + 1};
}

// One set of kernels, built for one instruction set. Every function pointer is set.
struct CpuKernels {
  const char* isa;      // "generic", "avx2", "avx512", "avx512_bf16": what FIDDLER_ISA takes
  bool (*runs_here)();  // does this machine have the instructions?
  int64_t (*num_tiles)(Rounding rounding, int64_t tokens);  // of packed tokens
  void (*pack)(const PackArgs& args);
  void (*mat_mul)(const MatMulArgs& args);
  void (*gate_up)(const GateUpArgs& args);
  void (*rms_norm)(const RmsNormArgs& args);
  void (*rope)(const RopeArgs& args);
  void (*kv_write)(const KvWriteArgs& args);
  void (*attend)(const AttendArgs& args);
  // What one segment gives: partials is [tokens, group, AttendPartialFloats(head_dim)]; args.out is not used.
  void (*attend_segment)(const AttendArgs& args, int64_t segment, float* partials);
  // out from the partials [segments, tokens, group, ..] of all SegmentsOf these tokens.
  void (*attend_merge)(const AttendArgs& args, const float* partials);
  void (*add)(int64_t n, const float* x, float* y);  // y += x
  void (*add_rows)(const AddRowsArgs& args);

  // Limits to hold the others against; probe.h times them.
  // Arithmetic of a product and nothing else, as the fastest instruction of the set for it does it; returns
  // the operations done.
  double (*f32_probe)(int64_t rounds);
  double (*bf16_probe)(int64_t rounds);
  double (*int8_probe)(int64_t rounds);
  float (*read_probe)(int64_t n, const float* data);  // reads data once; returns the sum
};

}  // namespace fiddler
