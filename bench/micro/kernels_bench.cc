// mat_mul and attend of every instruction set on one thread, each beside the limit of the machine: a plain
// read of as many bytes and a loop of FMAs, measured in turn with the kernel, so that what else runs on the
// machine hits both.
//
// Counters. GB/s: bytes of weights, or of keys and values, read once. GFLOP/s: two operations a product.
// %read and %fma: of the probes. Data is cold (a pool larger than the caches, used in turn) and in huge
// pages; times are CPU time.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdlib>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/probe.h"

namespace fiddler {
namespace {

constexpr int64_t kPoolBytes = 512 << 20;

// Numbers between -0.5 and 0.5, as float or as pairs of BF16.
std::span<float> MakePool(DType dtype) {
  void* const memory = mmap(nullptr, kPoolBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  madvise(memory, kPoolBytes, MADV_HUGEPAGE);
  const auto number = [](int64_t i) { return static_cast<float>(i * 7919 % 1000) / 1000 - 0.5f; };
  if (dtype == DType::kBF16) {
    auto* const data = static_cast<BF16*>(memory);
    for (int64_t i = 0; i < kPoolBytes / 2; ++i) data[i] = ToBF16(number(i));
  } else {
    auto* const data = static_cast<float*>(memory);
    for (int64_t i = 0; i < kPoolBytes / 4; ++i) data[i] = number(i);
  }
  return {static_cast<float*>(memory), kPoolBytes / sizeof(float)};
}

std::span<float> Pool(DType dtype) {
  static const std::span<float> bf16 = MakePool(DType::kBF16);
  static const std::span<float> f32 = MakePool(DType::kF32);
  return dtype == DType::kBF16 ? bf16 : f32;
}

// Times `work(data)`, which reads `bytes` of data and does `operations`, on one part of the pool after
// another, with the probes in between.
template <class Work>
void Measure(benchmark::State& state, const CpuKernels& kernels, std::span<float> pool, int64_t bytes,
             double operations, const Work& work) {
  const auto part = static_cast<size_t>(bytes) / sizeof(float);
  const size_t parts = pool.size() / part;
  size_t next = 0;
  const auto take = [&] { return pool.subspan(next++ % parts * part, part); };
  double seconds = 0;
  double read_seconds = 0;
  double fma_rate = 0;
  for (auto _ : state) {
    read_seconds += static_cast<double>(bytes) / MeasureReadRate(kernels, take());
    const double begin = ThreadSeconds();
    work(take());
    const double elapsed = ThreadSeconds() - begin;
    seconds += elapsed;
    state.SetIterationTime(elapsed);
    fma_rate += MeasureFmaRate(kernels);
  }
  const auto rounds = static_cast<double>(state.iterations());
  const double flops = operations * rounds / seconds;
  state.counters["GB/s"] = static_cast<double>(bytes) * rounds / seconds * 1e-9;
  state.counters["%read"] = 100 * read_seconds / seconds;
  state.counters["GFLOP/s"] = flops * 1e-9;
  state.counters["%fma"] = 100 * flops / (fma_rate / rounds);
}

void MatMul(benchmark::State& state, const CpuKernels& kernels, int64_t rows, int64_t cols, int64_t tokens) {
  std::vector<float> x(static_cast<size_t>(tokens * cols), 0.5f);
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  MatMulArgs args{.w = {nullptr, DType::kBF16, rows, cols},
                  .row_end = rows,
                  .tokens = tokens,
                  .x = x.data(),
                  .x_stride = cols,
                  .y = y.data(),
                  .y_stride = rows};
  const double operations = 2.0 * static_cast<double>(rows * cols * tokens);
  Measure(state, kernels, Pool(DType::kBF16), static_cast<int64_t>(args.w.bytes()), operations,
          [&](std::span<const float> weights) {
            args.w.data = weights.data();
            kernels.mat_mul(args);
          });
}

// All KV heads of one layer, for the last `tokens` of `context` positions.
void Attend(benchmark::State& state, const CpuKernels& kernels, int64_t context, int64_t group,
            int64_t tokens) {
  constexpr int64_t kHeadDim = 128;
  constexpr int64_t kKvHeads = 8;
  constexpr int64_t kBlockTokens = 32;
  const int64_t width = kKvHeads * group * kHeadDim;
  std::vector<float> q(static_cast<size_t>(tokens * width), 0.1f);
  std::vector<float> out(q.size());
  std::vector<int32_t> table(static_cast<size_t>(context / kBlockTokens));
  std::iota(table.begin(), table.end(), 0);
  AttendArgs args{.tokens = tokens,
                  .first_position = context - tokens,
                  .group = group,
                  .scale = 0.1f,
                  .q = q.data(),
                  .q_stride = width,
                  .out = out.data(),
                  .out_stride = width,
                  .kv = {.block_stride = 2 * kKvHeads * kBlockTokens * kHeadDim,
                         .block_table = table.data(),
                         .block_tokens = kBlockTokens,
                         .kv_heads = kKvHeads,
                         .head_dim = kHeadDim}};
  const int64_t bytes = context * 2 * kKvHeads * kHeadDim * static_cast<int64_t>(sizeof(float));
  const double seen =
      static_cast<double>(tokens) * (static_cast<double>(context) - 0.5 * static_cast<double>(tokens - 1));
  Measure(state, kernels, Pool(DType::kF32), bytes, 4.0 * seen * static_cast<double>(width),
          [&](std::span<const float> layer) {
            args.kv.layer = layer.data();
            for (args.kv_head = 0; args.kv_head < kKvHeads; ++args.kv_head) kernels.attend(args);
          });
}

void Register(const CpuKernels& kernels) {
  for (const int64_t rows : {4096, 14336}) {
    for (const int64_t tokens : {1, 2, 4, 8, 16, 64, 512}) {
      const std::string name = fmt::format("{}/mat_mul/bf16/{}x4096/tokens:{}", kernels.isa, rows, tokens);
      benchmark::RegisterBenchmark(
          name.c_str(),
          [=, &kernels](benchmark::State& state) { MatMul(state, kernels, rows, 4096, tokens); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  for (const int64_t context : {512, 8192}) {
    for (const int64_t group : {1, 4, 8}) {
      for (const int64_t tokens : {1, 512}) {
        const std::string name =
            fmt::format("{}/attend/context:{}/group:{}/tokens:{}", kernels.isa, context, group, tokens);
        benchmark::RegisterBenchmark(
            name.c_str(),
            [=, &kernels](benchmark::State& state) { Attend(state, kernels, context, group, tokens); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const fiddler::CpuKernels* kernels : fiddler::SupportedKernels()) {
    if (kernels != &fiddler::GenericKernels()) fiddler::Register(*kernels);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
