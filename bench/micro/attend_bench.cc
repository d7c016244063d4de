// attend of every instruction set on one thread, all KV heads of one layer: decode and the end of a prompt.
// Counters as in measure.h; bytes are those of keys and values, read once.
#include <fmt/format.h>

#include <numeric>
#include <vector>

#include "bench/micro/measure.h"
#include "kernels/dispatch.h"

namespace fiddler::bench {
namespace {

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
  static ColdPool pool;
  static bool filled = false;
  if (!filled) {
    auto* const numbers = reinterpret_cast<float*>(pool.bytes().data());
    for (int64_t i = 0; i < ColdPool::kBytes / 4; ++i)
      numbers[i] = static_cast<float>(i * 7919 % 1000) / 1000 - 0.5f;
    filled = true;
  }
  Measure(state, kernels, kernels.f32_probe, pool, bytes, 4.0 * seen * static_cast<double>(width),
          [&](const std::byte* layer) {
            args.kv.layer = reinterpret_cast<const float*>(layer);
            for (args.kv_head = 0; args.kv_head < kKvHeads; ++args.kv_head) kernels.attend(args);
          });
}

void Register(const CpuKernels& kernels) {
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
