// The slice: a fixed run of neurons of one gated FFN, the unit of placement, transfer and CPU work.
//
// An FFN is a sum over its neurons, y = sum_j silu(gate_j . x) (up_j . x) down_j, so it may be cut along them
// at will. A slice holds what `slice_neurons` of them need in one run of bytes: first their gate and up rows
// (panel i: the 16 gate rows of neurons [16 i, 16 i + 16) of the slice, then their 16 up rows), then their
// columns of the down matrix. Slice s of an FFN lies right behind slice s - 1. Where the neurons do not fill
// the last slice it is padded with neurons of zero weights, which add exactly nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/packed_matrix.h"

namespace fiddler {

// One FFN, packed and sliced. Owns nothing; data == nullptr: the layer has no such FFN.
struct SlicedFfn {
  const std::byte* data = nullptr;
  WeightFormat format = WeightFormat::kF32;
  int64_t hidden = 0;
  int64_t intermediate = 0;   // neurons the model has
  int64_t slice_neurons = 0;  // a multiple of 64

  constexpr int64_t num_slices() const { return (intermediate + slice_neurons - 1) / slice_neurons; }
  constexpr int64_t padded_neurons() const { return num_slices() * slice_neurons; }

  // [2 * slice_neurons, hidden], rows in the order GateUpArgs takes.
  constexpr PackedMatrix GateUp(int64_t slice) const {
    PackedMatrix matrix = GateUpShape();
    matrix.data = data + slice * slice_bytes();
    return matrix;
  }
  // [hidden, slice_neurons].
  constexpr PackedMatrix Down(int64_t slice) const {
    PackedMatrix matrix = DownShape();
    matrix.data = data + slice * slice_bytes() + gate_up_bytes();
    return matrix;
  }

  // The matrices of any slice, without data.
  constexpr PackedMatrix GateUpShape() const {
    return {.data = nullptr, .format = format, .rows = 2 * slice_neurons, .cols = hidden};
  }
  constexpr PackedMatrix DownShape() const {
    return {.data = nullptr, .format = format, .rows = hidden, .cols = slice_neurons};
  }

  constexpr int64_t gate_up_bytes() const {
    return static_cast<int64_t>(GateUpShape().bytes());
  }  // of one slice
  constexpr int64_t slice_bytes() const {
    return gate_up_bytes() + static_cast<int64_t>(DownShape().bytes());
  }
  constexpr size_t bytes() const {
    return intermediate == 0 ? 0 : static_cast<size_t>(num_slices() * slice_bytes());
  }
};

// Neurons of a slice for experts of this shape, a multiple of 64. Of the sizes that keep a slice within a
// 16th of the expert, but not below 1.75 nor above 3.5 MiB, and an expert in no fewer than four, the one that
// pads least, and of those the largest.
int64_t ChooseSliceNeurons(int64_t hidden, int64_t intermediate, WeightFormat format);

// Some whole rows of a row-major matrix.
struct RowMajor {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // F32, F16 or BF16
  int64_t rows = 0;
  int64_t cols = 0;
};

// The pieces an FFN is packed from, so that threads can share the work and no more than a piece is ever read
// at a time. `out` is the memory of the FFN that `ffn` describes (ffn.data is not looked at).
//
// Neurons [first, first + gate.rows), first a multiple of 16 and gate.rows too, or up to the last neuron:
// their gate and up rows, [neurons, hidden] each. The last neurons bring the padding behind them.
void PackGateUp(const SlicedFfn& ffn, int64_t first, const RowMajor& gate, const RowMajor& up,
                std::byte* out);
// Rows [first, first + down.rows) of the down matrix, [rows, intermediate]; first a multiple of 32 and
// down.rows too, or up to the last row.
void PackDown(const SlicedFfn& ffn, int64_t first, const RowMajor& down, std::byte* out);

// All of it: gate and up [intermediate, hidden], down [hidden, intermediate], into ffn.bytes() at out.
void PackFfn(const SlicedFfn& ffn, const RowMajor& gate, const RowMajor& up, const RowMajor& down,
             std::byte* out);

}  // namespace fiddler
