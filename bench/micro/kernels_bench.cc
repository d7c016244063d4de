// One slice of a gated FFN on one thread: gate_up, pack of what comes out, mat_mul of the down part; in every
// format and instruction set (measure.h says what the counters are). x is packed
// before, as all slices of an expert share it.
//
//   kernels_bench --benchmark_filter='avx512_bf16/.*/bf16/.*tokens:(1|8)$'
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "bench/micro/measure.h"
#include "kernels/dispatch.h"

namespace fiddler::bench {
namespace {

// Neurons of a slice of 16-bit weights, of experts with this width (ChooseSliceNeurons); the same in every
// format here, so that times compare.
struct Geometry {
  const char* name;
  int64_t hidden;
  int64_t neurons;
};
constexpr Geometry kGeometries[] = {{"mixtral", 4096, 128}, {"qwen3", 2048, 128}};
constexpr int64_t kTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};

int64_t AlignedBytes(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A slice as it lies in memory: gate and up, then down.
struct Slice {
  Slice(const Geometry& geometry, WeightFormat format)
      : gate_up{nullptr, format, 2 * geometry.neurons, geometry.hidden},
        down{nullptr, format, geometry.hidden, geometry.neurons} {}

  int64_t bytes() const { return static_cast<int64_t>(gate_up.bytes() + down.bytes()); }
  void At(const std::byte* data) {
    gate_up.data = data;
    down.data = data + gate_up.bytes();
  }

  PackedMatrix gate_up;
  PackedMatrix down;
};

// A pool full of copies of one slice with made-up weights.
std::unique_ptr<ColdPool> MakePool(Slice slice) {
  auto pool = std::make_unique<ColdPool>();
  const std::span<std::byte> bytes = pool->bytes();
  const auto pack = [](const PackedMatrix& matrix, std::byte* out) {
    std::vector<float> row(static_cast<size_t>(matrix.cols + kPanelRows));
    for (size_t i = 0; i < row.size(); ++i)
      row[i] = std::sin(static_cast<float>(i * i)) / std::sqrt(static_cast<float>(matrix.cols));
    for (int64_t panel = 0; panel < matrix.num_panels(); ++panel) {
      const void* rows[kPanelRows];
      for (int64_t r = 0; r < kPanelRows; ++r) rows[r] = row.data() + r;
      PackPanel(matrix.format, DType::kF32, rows, matrix.cols, out + panel * matrix.panel_bytes());
    }
  };
  pack(slice.gate_up, bytes.data());
  pack(slice.down, bytes.data() + slice.gate_up.bytes());
  for (int64_t at = slice.bytes(); at + slice.bytes() <= ColdPool::kBytes; at += slice.bytes())
    std::memcpy(bytes.data() + at, bytes.data(), static_cast<size_t>(slice.bytes()));
  return pool;
}

// The pool of the format and geometry asked for last: two at once may be more than the machine has.
ColdPool& Pool(const Geometry& geometry, WeightFormat format) {
  static std::string held;
  static std::unique_ptr<ColdPool> pool;
  if (std::string name = fmt::format("{} {}", geometry.name, FormatName(format)); name != held) {
    pool.reset();
    pool = MakePool(Slice(geometry, format));
    held = std::move(name);
  }
  return *pool;
}

auto ProbeOf(const CpuKernels& kernels, Rounding rounding) {
  if (rounding == Rounding::kNone) return kernels.f32_probe;
  return rounding == Rounding::kBF16 ? kernels.bf16_probe : kernels.int8_probe;
}

// Memory that begins at a cache line, as packed operands do.
class Aligned {
 public:
  explicit Aligned(int64_t bytes)
      : data_(static_cast<std::byte*>(std::aligned_alloc(64, AlignedBytes(bytes)))) {
    std::memset(data_, 0, static_cast<size_t>(AlignedBytes(bytes)));
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  ~Aligned() { std::free(data_); }
  std::byte* data() { return data_; }

 private:
  std::byte* data_;
};

void SliceFfn(benchmark::State& state, const CpuKernels& kernels, const Geometry& geometry,
              WeightFormat format, Rounding rounding, int64_t tokens) {
  Slice slice(geometry, format);
  std::vector<float> x(static_cast<size_t>(tokens * geometry.hidden));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::cos(static_cast<float>(i));
  Aligned packed_x(tokens * PackedTokenBytes(geometry.hidden));
  Aligned packed_h(tokens * PackedTokenBytes(geometry.neurons));
  std::vector<float> h(static_cast<size_t>(tokens * geometry.neurons));
  std::vector<float> y(x.size());
  const int64_t tiles = kernels.num_tiles(rounding, tokens);
  kernels.pack({.rounding = rounding,
                .tokens = tokens,
                .cols = geometry.hidden,
                .x = x.data(),
                .x_stride = geometry.hidden,
                .tile_end = tiles,
                .packed = packed_x.data()});
  const double operations = 2.0 * 3.0 * static_cast<double>(geometry.hidden * geometry.neurons * tokens);
  Measure(state, kernels, ProbeOf(kernels, rounding), Pool(geometry, format), slice.bytes(), operations,
          [&](const std::byte* weights) {
            slice.At(weights);
            kernels.gate_up({.w = slice.gate_up,
                             .panel_end = slice.gate_up.num_panels(),
                             .rounding = rounding,
                             .tokens = tokens,
                             .x = packed_x.data(),
                             .h = h.data(),
                             .h_stride = geometry.neurons});
            kernels.pack({.rounding = rounding,
                          .tokens = tokens,
                          .cols = geometry.neurons,
                          .x = h.data(),
                          .x_stride = geometry.neurons,
                          .tile_end = tiles,
                          .packed = packed_h.data()});
            kernels.mat_mul({.w = slice.down,
                             .panel_end = slice.down.num_panels(),
                             .rounding = rounding,
                             .tokens = tokens,
                             .x = packed_h.data(),
                             .y = y.data(),
                             .y_stride = geometry.hidden});
          });
}

void Register(const Geometry& geometry, WeightFormat format, const CpuKernels& kernels, Rounding rounding) {
  for (const int64_t tokens : kTokens) {
    const std::string name =
        fmt::format("{}/slice/{}/{}{}/tokens:{}", kernels.isa, geometry.name, FormatName(format),
                    rounding == Rounding::kNone ? "/exact" : "", tokens);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [=, &kernels](benchmark::State& state) {
                                   SliceFfn(state, kernels, geometry, format, rounding, tokens);
                                 })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

void RegisterAll() {
  for (const Geometry& geometry : kGeometries) {
    for (const WeightFormat format : kWeightFormats) {
      for (const CpuKernels* kernels : SupportedKernels()) {
        if (kernels == &GenericKernels()) continue;
        if (FastRounding(format) != Rounding::kNone)
          Register(geometry, format, *kernels, FastRounding(format));
        Register(geometry, format, *kernels, Rounding::kNone);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  fiddler::bench::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
