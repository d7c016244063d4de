// attend of every instruction set on one thread, all KV heads of one layer: a token after a long past, and a
// whole prompt. Counters as in measure.h; bytes are those of keys and values, read once, and the arithmetic
// that of the type they are kept in.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "bench/micro/measure.h"
#include "kernels/dispatch.h"

namespace fiddler::bench {
namespace {

struct Shape {
  DType dtype;
  int64_t heads;
  int64_t kv_heads;
  int64_t context;
  int64_t tokens;  // the last ones
};

// Filled with numbers between -1 and 1.
ColdPool& Pool(DType dtype) {
  const auto filled = [](auto convert) {
    auto* const pool = new ColdPool;  // lives as long as the program
    auto* const numbers = reinterpret_cast<decltype(convert(0.0f))*>(pool->bytes().data());
    for (int64_t i = 0; i < ColdPool::kBytes / static_cast<int64_t>(sizeof(*numbers)); ++i) {
      numbers[i] = convert(static_cast<float>(i * 7919 % 1000) / 500 - 1);
    }
    return pool;
  };
  static ColdPool* const f32 = filled([](float x) { return x; });
  static ColdPool* const bf16 = filled([](float x) { return ToBF16(x); });
  return dtype == DType::kBF16 ? *bf16 : *f32;
}

void Attend(benchmark::State& state, const CpuKernels& kernels, const Shape& shape) {
  constexpr int64_t kHeadDim = 128;
  const KvLayout layout = {.dtype = shape.dtype, .head_dim = kHeadDim};
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t width = shape.heads * kHeadDim;
  const int64_t blocks = shape.context / KvLayout::kBlockTokens;
  std::vector<float> q(static_cast<size_t>(shape.tokens * width), 0.1f);
  std::vector<float> out(q.size());
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  std::vector<std::byte> scratch(static_cast<size_t>(AttendScratchBytes(kHeadDim)) + 64);
  void* aligned = scratch.data();
  size_t space = scratch.size();
  AttendArgs args{.group = group,
                  .scale = 0.1f,
                  .q_stride = width,
                  .out_stride = width,
                  .scratch = static_cast<std::byte*>(std::align(64, scratch.size() - 64, aligned, space)),
                  .kv = {.head_stride = blocks * layout.bytes(),
                         .block_table = table.data(),
                         .kv_heads = shape.kv_heads,
                         .layout = layout}};
  const auto seen = static_cast<double>(shape.tokens) *
                    (static_cast<double>(shape.context) - 0.5 * static_cast<double>(shape.tokens - 1));
  const auto probe = shape.dtype == DType::kBF16 ? kernels.bf16_probe : kernels.f32_probe;
  const int64_t tile = std::max<int64_t>(1, kAttendQueries / group);  // as the engine does
  Measure(state, kernels, probe, Pool(shape.dtype), shape.kv_heads * args.kv.head_stride,
          4.0 * seen * static_cast<double>(width), [&](const std::byte* layer) {
            args.kv.layer = const_cast<std::byte*>(layer);
            for (int64_t first = 0; first < shape.tokens; first += tile) {
              args.tokens = std::min(tile, shape.tokens - first);
              args.first_position = shape.context - shape.tokens + first;
              args.q = q.data() + first * width;
              args.out = out.data() + first * width;
              for (args.kv_head = 0; args.kv_head < shape.kv_heads; ++args.kv_head) kernels.attend(args);
            }
          });
}

void Register(const CpuKernels& kernels) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const auto& [context, tokens] : {std::pair{8192, 1}, {2048, 2048}}) {
      for (const auto& [heads, kv_heads] : {std::pair{32, 4}, {32, 8}, {16, 16}}) {
        const Shape shape = {dtype, heads, kv_heads, context, tokens};
        const std::string name = fmt::format("{}/attend/{}/heads:{}/{}/context:{}/tokens:{}", kernels.isa,
                                             DTypeName(dtype), heads, kv_heads, context, tokens);
        benchmark::RegisterBenchmark(
            name.c_str(), [=, &kernels](benchmark::State& state) { Attend(state, kernels, shape); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace
}  // namespace fiddler::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const fiddler::CpuKernels* kernels : fiddler::SupportedKernels()) {
    if (kernels != &fiddler::GenericKernels()) fiddler::bench::Register(*kernels);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
