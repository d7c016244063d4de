// The end of an FFN: what pairs of token and piece gave is added to the tokens' rows.
#pragma once

#include "kernels/cuda/product_args.cuh"

namespace fiddler::cuda {

// A pair's share of its row.
struct Contribution {
  const float* weight_on_device;  // or null: see next
  float weight;
  int pair;
};

// What is added to which rows. Two forms: lists (row i of `rows_at` gets contributions starts[i] to
// starts[i + 1]), or, where tokens are rows one after another, no lists: row i gets what pieces have for it.
struct CombineArgs {
  int64_t rows_at;    // in tables: int32 [rows]; or -1: no lists
  int64_t starts_at;  // int32 [rows + 1]
  int64_t contributions_at;
  int num_pieces;
  int64_t hidden;
  int splits;
  const float* y;  // [splits, split_stride], [pairs, hidden] each
  int64_t split_stride;
  float* out;  // [.., hidden]
};

inline constexpr int kCombineThreads = 256;

// Blocks: x rows, y columns by 256. A thread has a column of a row to itself and adds in the order of pairs,
// so that pieces may share rows. Reads pairs * splits + rows, writes rows of hidden floats: with one token a
// few kilobytes, and the launch is what it costs.
__global__ void __launch_bounds__(kCombineThreads)
    CombineKernel(const __grid_constant__ Tables tables, const CombineArgs args) {
  const int64_t col = int64_t{blockIdx.y} * kCombineThreads + threadIdx.x;
  if (col >= args.hidden) return;
  const auto i = static_cast<int>(blockIdx.x);
  const auto y = [&](int pair) {
    float sum = 0;
    for (int split = 0; split < args.splits; ++split) {
      sum += args.y[split * args.split_stride + pair * args.hidden + col];
    }
    return sum;
  };
  if (args.rows_at < 0) {
    float* const out = args.out + i * args.hidden + col;
    float total = *out;
    for (unsigned p = 0; p < static_cast<unsigned>(args.num_pieces); ++p) {
      const Piece& piece = tables.piece(p);
      const int token = i - piece.first_row;
      if (token < 0 || token >= piece.tokens) continue;
      total += (piece.weights != nullptr ? piece.weights[token] : 1.0f) * y(piece.first_pair + token);
    }
    *out = total;
  } else {
    float* const out = args.out + tables.At<int32_t>(args.rows_at)[i] * args.hidden + col;
    const int32_t* const starts = tables.At<int32_t>(args.starts_at);
    const auto* const contributions = tables.At<Contribution>(args.contributions_at);
    float total = *out;
    for (int c = starts[i]; c < starts[i + 1]; ++c) {
      const Contribution& from = contributions[c];
      const float weight = from.weight_on_device != nullptr ? *from.weight_on_device : from.weight;
      total += weight * y(from.pair);
    }
    *out = total;
  }
}

}  // namespace fiddler::cuda
