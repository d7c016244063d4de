// The vocabulary of computation: what every set of CPU kernels offers, as plain structs and one table of
// functions.
//
// Conventions. Activations are float32, row-major, one token a row; a stride is counted in elements. Weights
// are row-major [rows, cols] in their stored type and are widened to float32 exactly; products and sums are
// float32 or wider. A kernel computes the range it is given on the calling thread and touches nothing else:
// who splits work over threads is the engine. Pointers need the alignment of their element, no more. No
// kernel allocates or throws.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace fiddler {

// Weights [rows, cols]; dtype is F32, F16 or BF16. Owns nothing.
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  size_t bytes() const { return static_cast<size_t>(rows * cols) * DTypeBytes(dtype); }
};

// y[t, r] = sum_k x[t, k] * w[r, k] + bias[r], for r in [row_begin, row_end) and all tokens t.
// With a row_index, token t reads x row row_index[t] (a gather; y rows stay 0, 1, ...).
struct MatMulArgs {
  MatrixView w;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t tokens = 0;
  const float* x = nullptr;  // [.., w.cols]
  int64_t x_stride = 0;
  const int32_t* row_index = nullptr;  // [tokens] or null
  float* y = nullptr;                  // [tokens, w.rows]
  int64_t y_stride = 0;
  const float* bias = nullptr;  // [w.rows] or null
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

// One layer's keys and values of one sequence, in blocks. Position p is row p % block_tokens of block
// block_table[p / block_tokens]; a block holds [kv_heads, block_tokens, head_dim] keys, then as many values.
struct KvView {
  const float* layer = nullptr;          // block 0 of the layer
  int64_t block_stride = 0;              // elements from one block to the next
  const int32_t* block_table = nullptr;  // the sequence's blocks
  int64_t block_tokens = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;

  [[gnu::always_inline]] const float* Keys(int64_t block,
                                           int64_t kv_head) const {  // [block_tokens, head_dim]
    return layer + block_table[block] * block_stride + kv_head * block_tokens * head_dim;
  }
  [[gnu::always_inline]] const float* Values(int64_t block,
                                             int64_t kv_head) const {  // [block_tokens, head_dim]
    return Keys(block, kv_heads + kv_head);
  }
};

// Causal attention of the query heads that share one KV head, for consecutive tokens of one sequence:
// out[t, h] = softmax_p(scale * q[t, h] . k[p]) v[p], over positions p with
// position(t) - window < p <= position(t), where position(t) = first_position + t; window 0 is no window.
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
  KvView kv;
};

// One set of kernels, built for one instruction set. Every function pointer is set.
struct CpuKernels {
  const char* isa;      // "generic", "avx2", "avx512": what FIDDLER_ISA takes
  bool (*runs_here)();  // does this machine have the instructions?
  void (*mat_mul)(const MatMulArgs& args);
  void (*rms_norm)(const RmsNormArgs& args);
  void (*rope)(const RopeArgs& args);
  void (*attend)(const AttendArgs& args);
  void (*silu_mul)(int64_t n, const float* gate, const float* up,
                   float* out);                      // out = silu(gate) * up; out may be gate
  void (*add)(int64_t n, const float* x, float* y);  // y += x
  void (*scaled_add)(int64_t n, float scale, const float* x, float* y);  // y += scale * x

  // Limits to hold the others against; probe.h times them.
  double (*fma_probe)(int64_t rounds);                // float32 FMAs only; returns the operations done
  float (*read_probe)(int64_t n, const float* data);  // reads data once, in order; returns the sum
};

// Aborts: a weight type that mat_mul does not take has come this far.
[[noreturn]] void RejectWeightType(DType dtype);

}  // namespace fiddler
