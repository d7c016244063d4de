#include "engine/expert_timer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "base/timing.h"
#include "engine/ffn.h"

namespace fiddler {

MadeUpExperts::MadeUpExperts(const SlicedFfn& geometry, uint64_t bytes, ThreadPool& pool) {
  const auto count = std::max<size_t>(1, static_cast<size_t>(bytes) / geometry.bytes());
  memory_ = HugePageBuffer(count * geometry.bytes(), "made-up experts");
  experts_.assign(count, geometry);
  for (size_t i = 0; i < count; ++i) experts_[i].data = memory_.bytes().data() + i * geometry.bytes();

  SlicedFfn slice = geometry;
  slice.intermediate = slice.slice_neurons;
  std::vector<float> weights(static_cast<size_t>(slice.hidden * slice.slice_neurons));
  Rng rng(1);
  for (float& weight : weights) weight = static_cast<float>(rng.NextUnit() - 0.5) / 16;
  const RowMajor rows = {weights.data(), DType::kF32, slice.slice_neurons, slice.hidden};
  const RowMajor down = {weights.data(), DType::kF32, slice.hidden, slice.slice_neurons};
  std::vector<std::byte> packed(slice.bytes());
  PackFfn(slice, rows, rows, down, packed.data());
  // Written by the threads that will read about as much: on machines of several nodes every node gets its
  // part.
  const int64_t slices = static_cast<int64_t>(count) * geometry.num_slices();
  pool.ParallelFor(slices, [&](int64_t index, int) {
    std::memcpy(memory_.bytes().data() + index * slice.slice_bytes(), packed.data(), packed.size());
  });
}

ExpertTimer::ExpertTimer(std::vector<SlicedFfn> experts, const CpuKernels& kernels, ThreadPool& pool,
                         Arithmetic arithmetic, int64_t max_tokens, int64_t max_passes)
    : experts_(std::move(experts)),
      ops_(kernels, pool, arithmetic, 1, expert().hidden, workspace_),
      runner_({.hidden = expert().hidden,
               .tokens = max_tokens,
               .slots = max_tokens * max_passes,
               .slice_neurons = expert().slice_neurons,
               .slot_neurons = max_tokens * max_passes * expert().padded_neurons()},
              ops_, workspace_),
      x_(workspace_.Floats(max_tokens * expert().hidden)),
      out_(workspace_.Floats(max_tokens * expert().hidden)) {
  Rng rng(1);
  for (int64_t i = 0; i < max_tokens * expert().hidden; ++i)
    x_[i] = static_cast<float>(rng.NextUnit()) - 0.5F;
}

double ExpertTimer::Time(int64_t runs, int64_t tokens, int64_t passes) {
  passes_.resize(static_cast<size_t>(passes));
  return SecondsOf([&] {
           for (int64_t i = 0; i < runs; ++i) {
             for (FfnPass& pass : passes_) {
               pass = {.ffn = &experts_[next_++ % experts_.size()], .tokens = tokens};
             }
             runner_.Run(passes_, tokens, x_, out_);
           }
         }) /
         static_cast<double>(runs);
}

double TimeCachedLayer(const CpuKernels& kernels, ThreadPool& pool) {
  constexpr int64_t kWidth = 64;
  PackedModel model;
  model.spec.hidden = kWidth;
  model.spec.moe = {.num_experts = 8, .top_k = 2, .intermediate = kWidth};
  model.spec.layers.resize(1);
  SlicedFfn expert = {.data = nullptr,
                      .format = WeightFormat::kBF16,
                      .hidden = kWidth,
                      .intermediate = kWidth,
                      .slice_neurons = kWidth};
  PackedMatrix router = {
      .data = nullptr, .format = WeightFormat::kF32, .rows = model.spec.moe.num_experts, .cols = kWidth};
  model.memory = HugePageBuffer(expert.bytes() + router.bytes(), "cached layer");  // zeros: as fast as others
  expert.data = model.memory.bytes().data();
  router.data = expert.data + expert.bytes();
  PackedLayer layer;
  layer.router = router;
  layer.experts.assign(static_cast<size_t>(model.spec.moe.num_experts), expert);
  model.weights.layers.push_back(std::move(layer));
  model.host_experts = std::make_unique<HostExperts>(ExpertLayersOf(model.weights));

  Workspace workspace;
  const ParallelOps ops(kernels, pool, Arithmetic::kFast, 1, kWidth, workspace);
  Ffn ffn(model, ops, 1, workspace);
  const std::vector<float> x(kWidth, 0.5F);
  std::vector<float> out(kWidth);
  std::vector<double> seconds;
  constexpr int kLayers = 100;  // of one timing
  for (int i = 0; i < 100; ++i) {
    const double all = SecondsOf([&] {
      for (int l = 0; l < kLayers; ++l) ffn.Run(0, model.weights.layers[0], 1, x.data(), out.data());
    });
    seconds.push_back(all / kLayers);
  }
  return Median(seconds);
}

}  // namespace fiddler
