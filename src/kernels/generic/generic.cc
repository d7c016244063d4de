// The oracle: each op as its definition reads, scalar, sums in double. Slow on purpose.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/generic/attend.h"
#include "kernels/rounding.h"

namespace fiddler {
namespace {

int64_t NumTiles(Rounding, int64_t tokens) { return tokens; }

// Rows of floats, one token a tile.
void Pack(const PackArgs& args) {
  const int64_t group = RoundingGroup(args.rounding);
  for (int64_t t = args.tile_begin; t < args.tile_end; ++t) {
    const float* x = args.x + (args.row_index ? args.row_index[t] : t) * args.x_stride;
    auto* packed = reinterpret_cast<float*>(args.packed + t * PackedTokenBytes(args.cols));
    std::copy_n(x, args.cols, packed);
    for (int64_t k = 0; k < args.cols; k += group) {
      RoundGroup(args.rounding, std::min(group, args.cols - k), packed + k);
    }
  }
}

double Dot(const std::vector<float>& weights, const std::byte* x) {
  const auto* values = reinterpret_cast<const float*>(x);
  double sum = 0;
  for (size_t k = 0; k < weights.size(); ++k) sum += static_cast<double>(values[k]) * weights[k];
  return sum;
}

void MatMul(const MatMulArgs& args) {
  const int64_t token_bytes = PackedTokenBytes(args.w.cols);
  std::vector<float> weights(static_cast<size_t>(args.w.cols));
  const int64_t end = std::min(args.panel_end * kPanelRows, args.w.rows);
  for (int64_t r = args.panel_begin * kPanelRows; r < end; ++r) {
    for (int64_t segment = 0; segment < args.segments; ++segment) {
      PackedMatrix w = args.w;
      w.data += segment * args.w_segment_bytes;
      UnpackRow(w, r, weights.data());
      const std::byte* x = args.x + segment * args.x_segment_bytes;
      for (int64_t t = 0; t < args.tokens; ++t) {
        float& y = args.y[t * args.y_stride + r];
        const double sum = Dot(weights, x + t * token_bytes);
        if (segment > 0) {
          y += static_cast<float>(sum);  // as if the caller added what the segments give
        } else {
          y = static_cast<float>(sum + (args.bias ? args.bias[r] : 0.0));
        }
      }
    }
  }
}

void GateUp(const GateUpArgs& args) {
  constexpr int64_t kNeurons = kPanelRows / 2;  // of a panel
  const int64_t token_bytes = PackedTokenBytes(args.w.cols);
  std::vector<float> gate(static_cast<size_t>(args.w.cols));
  std::vector<float> up(gate.size());
  for (int64_t n = args.panel_begin * kNeurons; n < args.panel_end * kNeurons; ++n) {
    const int64_t gate_row = n / kNeurons * kPanelRows + n % kNeurons;
    UnpackRow(args.w, gate_row, gate.data());
    UnpackRow(args.w, gate_row + kNeurons, up.data());
    for (int64_t t = 0; t < args.tokens; ++t) {
      const double g = Dot(gate, args.x + t * token_bytes);
      const double u = Dot(up, args.x + t * token_bytes);
      args.h[t * args.h_stride + n] = static_cast<float>(g / (1.0 + std::exp(-g)) * u);
    }
  }
}

void RmsNorm(const RmsNormArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    double squares = 0;
    for (int64_t i = 0; i < args.cols; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(args.cols) + args.epsilon);
    for (int64_t i = 0; i < args.cols; ++i) y[i] = static_cast<float>(x[i] * scale) * args.weight[i];
  }
}

void Rope(const RopeArgs& args) {
  const int64_t half = args.rotary_dim / 2;
  for (int64_t h = 0; h < args.heads; ++h) {
    float* x = args.x + h * args.head_dim;
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[i];
      const float b = x[i + half];
      x[i] = a * args.cos[i] - b * args.sin[i];
      x[i + half] = b * args.cos[i] + a * args.sin[i];
    }
  }
}

void Add(int64_t n, const float* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void AddRows(const AddRowsArgs& args) {
  for (int64_t i = 0; i < args.cols; ++i) {
    float sum = args.x[i];
    for (int64_t r = 1; r < args.rows; ++r) sum += args.x[r * args.x_stride + i];
    args.y[i] += args.scale * sum;
  }
}

double F32Probe(int64_t rounds) {
  volatile float sum = 1.0f;
  for (int64_t i = 0; i < rounds; ++i) sum = sum * 0.999f + 0.999f;
  return 2.0 * static_cast<double>(rounds);
}

float ReadProbe(int64_t n, const float* data) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += data[i];
  return sum;
}

bool RunsHere() { return true; }

constexpr CpuKernels kGeneric = {
    .isa = "generic",
    .runs_here = RunsHere,
    .num_tiles = NumTiles,
    .pack = Pack,
    .mat_mul = MatMul,
    .gate_up = GateUp,
    .rms_norm = RmsNorm,
    .rope = Rope,
    .kv_write = generic::KvWrite,
    .attend = generic::Attend,
    .attend_segment = generic::AttendSegment,
    .attend_merge = generic::AttendMerge,
    .add = Add,
    .add_rows = AddRows,
    .f32_probe = F32Probe,
    .bf16_probe = F32Probe,
    .int8_probe = F32Probe,
    .read_probe = ReadProbe,
};

}  // namespace

const CpuKernels& GenericKernels() { return kGeneric; }

}  // namespace fiddler
