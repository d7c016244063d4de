// The oracle: each op as its definition reads, scalar, sums in double. Slow on purpose.
#include <algorithm>
#include <cmath>

#include "kernels/dispatch.h"

namespace fiddler {
namespace {

float WeightAt(const MatrixView& w, int64_t index) {
  switch (w.dtype) {
    case DType::kF32:
      return static_cast<const float*>(w.data)[index];
    case DType::kF16:
      return ToFloat(static_cast<const F16*>(w.data)[index]);
    case DType::kBF16:
      return ToFloat(static_cast<const BF16*>(w.data)[index]);
    default:
      RejectWeightType(w.dtype);
  }
}

void MatMul(const MatMulArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* x = args.x + (args.row_index ? args.row_index[t] : t) * args.x_stride;
    for (int64_t r = args.row_begin; r < args.row_end; ++r) {
      double sum = args.bias ? args.bias[r] : 0.0;
      for (int64_t k = 0; k < args.w.cols; ++k) {
        sum += static_cast<double>(x[k]) * WeightAt(args.w, r * args.w.cols + k);
      }
      args.y[t * args.y_stride + r] = static_cast<float>(sum);
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

// Two passes over the keys: the largest score, then exponentials and the weighted sum of values.
void AttendOne(const AttendArgs& args, const float* q, int64_t position, float* out) {
  const KvView& kv = args.kv;
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
  const auto score = [&](int64_t p) {
    const float* key = kv.Keys(p / kv.block_tokens, args.kv_head) + p % kv.block_tokens * kv.head_dim;
    double dot = 0;
    for (int64_t i = 0; i < kv.head_dim; ++i) dot += static_cast<double>(q[i]) * key[i];
    return dot * args.scale;
  };
  double largest = score(first);
  for (int64_t p = first + 1; p <= position; ++p) largest = std::max(largest, score(p));

  double total = 0;
  for (int64_t p = first; p <= position; ++p) total += std::exp(score(p) - largest);
  std::fill_n(out, kv.head_dim, 0.0f);
  for (int64_t p = first; p <= position; ++p) {
    const float* value = kv.Values(p / kv.block_tokens, args.kv_head) + p % kv.block_tokens * kv.head_dim;
    const auto weight = static_cast<float>(std::exp(score(p) - largest) / total);
    for (int64_t i = 0; i < kv.head_dim; ++i) out[i] += weight * value[i];
  }
}

void Attend(const AttendArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t g = 0; g < args.group; ++g) {
      const int64_t offset = (args.kv_head * args.group + g) * args.kv.head_dim;
      AttendOne(args, args.q + t * args.q_stride + offset, args.first_position + t,
                args.out + t * args.out_stride + offset);
    }
  }
}

void SiluMul(int64_t n, const float* gate, const float* up, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up[i]);
  }
}

void Add(int64_t n, const float* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void ScaledAdd(int64_t n, float scale, const float* x, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += scale * x[i];
}

double FmaProbe(int64_t rounds) {
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
    .mat_mul = MatMul,
    .rms_norm = RmsNorm,
    .rope = Rope,
    .attend = Attend,
    .silu_mul = SiluMul,
    .add = Add,
    .scaled_add = ScaledAdd,
    .fma_probe = FmaProbe,
    .read_probe = ReadProbe,
};

}  // namespace

const CpuKernels& GenericKernels() { return kGeneric; }

}  // namespace fiddler
