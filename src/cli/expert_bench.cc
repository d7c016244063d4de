#include "cli/expert_bench.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "calibrate/limits.h"
#include "cli/timing.h"
#include "engine/ffn.h"
#include "engine/sliced_ffn.h"
#include "engine/workspace.h"

namespace fiddler {
namespace {

constexpr double kTimedBytes = 300e6;  // read by one timing: some 10 ms, and far more than the caches hold

// Every routed expert of the model, each as a pass of its own.
class ExpertRunner {
 public:
  ExpertRunner(std::vector<const SlicedFfn*> experts, const CpuKernels& kernels, ThreadPool& pool,
               Arithmetic arithmetic, int64_t max_tokens)
      : experts_(std::move(experts)),
        ops_(kernels, pool, arithmetic, 1, experts_.front()->hidden, workspace_),
        runner_({.hidden = hidden(),
                 .tokens = max_tokens,
                 .slots = max_tokens,
                 .slice_neurons = experts_.front()->slice_neurons,
                 .slot_neurons = max_tokens * experts_.front()->padded_neurons()},
                ops_, workspace_),
        x_(workspace_.Floats(max_tokens * hidden())),
        out_(workspace_.Floats(max_tokens * hidden())) {
    Rng rng(1);
    for (int64_t i = 0; i < max_tokens * hidden(); ++i) x_[i] = static_cast<float>(rng.NextUnit()) - 0.5F;
  }

  const SlicedFfn& expert() const { return *experts_.front(); }
  Rounding rounding() const { return ops_.RoundingFor(expert().format); }

  // Seconds of one expert, the mean over `count` of them that were not used for the longest time.
  double Time(int64_t count, int64_t tokens) {
    return SecondsOf([&] {
             for (int64_t i = 0; i < count; ++i) {
               const FfnPass pass = {.ffn = experts_[next_++ % experts_.size()], .tokens = tokens};
               runner_.Run({&pass, 1}, tokens, x_, out_);
             }
           }) /
           static_cast<double>(count);
  }

 private:
  int64_t hidden() const { return experts_.front()->hidden; }

  std::vector<const SlicedFfn*> experts_;
  Workspace workspace_;
  ParallelOps ops_;
  SlicedFfnRunner runner_;
  float* x_;    // [max_tokens, hidden]
  float* out_;  // [max_tokens, hidden]
  size_t next_ = 0;
};

std::vector<const SlicedFfn*> AllExperts(const PackedModel& model) {
  std::vector<const SlicedFfn*> experts;
  for (const PackedLayer& layer : model.weights.layers) {
    for (const SlicedFfn& expert : layer.experts) experts.push_back(&expert);
  }
  CHECK(!experts.empty());
  return experts;
}

}  // namespace

std::vector<ExpertTiming> TimeExperts(const PackedModel& model, const CpuKernels& kernels, ThreadPool& pool,
                                      Arithmetic arithmetic, std::span<const int64_t> tokens,
                                      int64_t rounds) {
  ExpertRunner runner(AllExperts(model), kernels, pool, arithmetic,
                      *std::max_element(tokens.begin(), tokens.end()));
  LimitProbe probe(kernels, pool);
  const SlicedFfn& expert = runner.expert();
  const auto bytes = static_cast<double>(expert.bytes());
  const auto count = std::max<int64_t>(1, static_cast<int64_t>(kTimedBytes / bytes));
  const double operations_of_token = 6.0 * static_cast<double>(expert.hidden * expert.intermediate);

  struct Samples {
    std::vector<double> seconds, percent_of_read, percent_of_peak, times_one_token;
  };
  std::vector<Samples> samples(tokens.size());
  for (const int64_t n : tokens) runner.Time(1, n);  // touches every buffer once; not counted
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const double one = runner.Time(count, 1);
      const double read = probe.ReadGigabytesPerSecond() * 1e9;
      const double seconds = runner.Time(count, tokens[i]);
      const double peak = probe.ArithmeticGigaops(expert.format, runner.rounding()) * 1e9;
      samples[i].seconds.push_back(seconds);
      samples[i].percent_of_read.push_back(100 * bytes / seconds / read);
      samples[i].percent_of_peak.push_back(100 * operations_of_token * static_cast<double>(tokens[i]) /
                                           seconds / peak);
      samples[i].times_one_token.push_back(seconds / one);
    }
  }
  std::vector<ExpertTiming> timings;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double seconds = Median(samples[i].seconds);
    timings.push_back({.tokens = tokens[i],
                       .seconds = seconds,
                       .gbps = bytes / seconds / 1e9,
                       .gflops = operations_of_token * static_cast<double>(tokens[i]) / seconds / 1e9,
                       .percent_of_read = Median(samples[i].percent_of_read),
                       .percent_of_peak = Median(samples[i].percent_of_peak),
                       .times_one_token = Median(samples[i].times_one_token)});
  }
  return timings;
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
