#include "experts/slice.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace fiddler {
namespace {

// Neurons: whole groups of columns of every format, whole panels of gate and up.
constexpr int64_t kGrain = 64;
constexpr int64_t kHalfPanel = kPanelRows / 2;

using PanelRows = std::array<const void*, kPanelRows>;  // null: a row of zeros

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

const void* RowOf(const RowMajor& matrix, int64_t row, int64_t first_col = 0) {
  const int64_t element = row * matrix.cols + first_col;
  return static_cast<const std::byte*>(matrix.data) +
         element * static_cast<int64_t>(DTypeBytes(matrix.dtype));
}

}  // namespace

int64_t ChooseSliceNeurons(int64_t hidden, int64_t intermediate, WeightFormat format) {
  constexpr int64_t kSmallest = 7 << 18;  // below, handing out tasks and starting copies shows
  constexpr int64_t kLargest = 7 << 19;   // above, the last task of a layer to finish is waited for
  constexpr int64_t kFewest = 4;          // slices, for threads and devices to share
  CHECK(hidden > 0 && intermediate > 0, "[{}, {}]", intermediate, hidden);
  const SlicedFfn grain = {
      .data = nullptr, .format = format, .hidden = hidden, .intermediate = kGrain, .slice_neurons = kGrain};
  const int64_t grains = (intermediate + kGrain - 1) / kGrain;
  const int64_t target = std::clamp(grains * grain.slice_bytes() / 16, kSmallest, kLargest);
  const int64_t most = std::clamp<int64_t>(target / grain.slice_bytes(), 1,
                                           std::max<int64_t>(1, (grains - 1) / (kFewest - 1)));
  int64_t best = kGrain;
  for (int64_t neurons = kGrain; neurons <= most * kGrain; neurons += kGrain) {
    if (RoundUp(intermediate, neurons) <= RoundUp(intermediate, best)) best = neurons;
  }
  return best;
}

void PackGateUp(const SlicedFfn& ffn, int64_t first, const RowMajor& gate, const RowMajor& up,
                std::byte* out) {
  const int64_t last = first + gate.rows;
  CHECK(first % kHalfPanel == 0 && (gate.rows % kHalfPanel == 0 || last == ffn.intermediate) &&
            last <= ffn.intermediate && up.rows == gate.rows && up.dtype == gate.dtype,
        "neurons {} to {} of {}", first, last, ffn.intermediate);
  CHECK(gate.cols == ffn.hidden && up.cols == ffn.hidden, "{} and {} columns of {}", gate.cols, up.cols,
        ffn.hidden);
  const int64_t end = last == ffn.intermediate ? ffn.padded_neurons() : last;
  for (int64_t neuron = first; neuron < end; neuron += kHalfPanel) {
    PanelRows rows = {};
    for (int64_t i = 0; i < std::min(kHalfPanel, last - neuron); ++i) {
      rows[static_cast<size_t>(i)] = RowOf(gate, neuron - first + i);
      rows[static_cast<size_t>(kHalfPanel + i)] = RowOf(up, neuron - first + i);
    }
    const PackedMatrix matrix = ffn.GateUpShape();
    std::byte* slice = out + neuron / ffn.slice_neurons * ffn.slice_bytes();
    PackPanel(ffn.format, gate.dtype, rows, ffn.hidden,
              slice + neuron % ffn.slice_neurons / kHalfPanel * matrix.panel_bytes());
  }
}

void PackDown(const SlicedFfn& ffn, int64_t first, const RowMajor& down, std::byte* out) {
  CHECK(first % kPanelRows == 0 && (down.rows % kPanelRows == 0 || first + down.rows == ffn.hidden),
        "rows {} to {} of {}", first, first + down.rows, ffn.hidden);
  CHECK(down.cols == ffn.intermediate, "{} columns of {}", down.cols, ffn.intermediate);
  const PackedMatrix matrix = ffn.DownShape();
  const GroupLayout group = LayoutOf(ffn.format);
  for (int64_t begin = 0; begin < down.rows; begin += kPanelRows) {
    const auto count = static_cast<size_t>(std::min(kPanelRows, down.rows - begin));
    const int64_t panel = (first + begin) / kPanelRows;
    // Every thread begins with another slice, so that no two of them are the first to touch a page.
    for (int64_t i = 0; i < ffn.num_slices(); ++i) {
      const int64_t slice = (i + panel) % ffn.num_slices();
      const int64_t neuron = slice * ffn.slice_neurons;
      const int64_t cols = std::min(ffn.slice_neurons, ffn.intermediate - neuron);
      PanelRows rows = {};
      for (size_t r = 0; r < count; ++r) rows[r] = RowOf(down, begin + static_cast<int64_t>(r), neuron);
      std::byte* to = out + slice * ffn.slice_bytes() + ffn.gate_up_bytes() + panel * matrix.panel_bytes();
      PackPanel(ffn.format, down.dtype, {rows.data(), count}, cols, to);
      const int64_t groups = (cols + group.cols - 1) / group.cols;
      const int64_t padding = ffn.slice_neurons - groups * group.cols;
      if (padding > 0) PackPanel(ffn.format, down.dtype, {}, padding, to + groups * group.bytes);
    }
  }
}

void PackFfn(const SlicedFfn& ffn, const RowMajor& gate, const RowMajor& up, const RowMajor& down,
             std::byte* out) {
  PackGateUp(ffn, 0, gate, up, out);
  PackDown(ffn, 0, down, out);
}

}  // namespace fiddler
