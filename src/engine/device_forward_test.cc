// The forward pass on a device and the CPU together against the host's alone, which golden_test.cc holds
// against Hugging Face transformers: every policy and random ones, with room for any part of the experts, on
// an emulated device that runs its streams in any legal order.
#include "engine/device_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/error_testing.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/sanitized.h"
#include "device/emulated.h"
#include "engine/background_pin.h"
#include "engine/device_forward_testing.h"
#include "engine/golden_testing.h"
#include "engine/host_forward.h"
#include "engine/test_models.h"
#include "io/test_files.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

// The same with experts in a file and room for few of them in host memory.
const PackedModel& ModelOnDisk(bool shared) {
  static const TempFolder folder;
  static const auto pack = [](bool with_shared) {
    ThreadPool pool(2, DiscoverTopology());
    const Model model =
        MakeDummyModel(ConfigOf(with_shared), with_shared ? 6 : 5, with_shared ? DType::kBF16 : DType::kF32);
    return PackToDisk(model, {}, folder.path() / (with_shared ? "shared" : "plain"), /*slots=*/4, pool);
  };
  static PackedModel models[] = {pack(false), pack(true)};
  return models[shared ? 1 : 0];
}

// Any decision there is, with any way to give up slots.
class RandomPolicy final : public Policy {
 public:
  RandomPolicy(uint64_t seed, const PolicyGeometry& geometry)
      : rng_(seed), geometry_(geometry), is_moe_(geometry.is_moe.begin(), geometry.is_moe.end()) {
    options_ = {.num_layers = geometry.num_layers,
                .num_experts = geometry.num_experts,
                .num_slices = geometry.num_slices,
                .num_slots = geometry.num_slots,
                .per_layer = rng_.NextBits() % 3 == 0,
                .eviction = std::array{Eviction::kNever, Eviction::kLru,
                                       Eviction::kDecayedFrequency}[rng_.NextBits() % 3],
                .decay = 0.9};
  }

  std::string_view name() const override { return "random"; }
  ResidencyOptions Slots() const override { return options_; }

  std::vector<ExpertId> Placement(std::span<const int64_t>) const override {
    std::vector<ExpertId> ids;
    Rng rng = rng_;
    for (int64_t i = rng.NextBits() % 8; i > 0; --i) {
      const auto layer = static_cast<int64_t>(rng.NextBits() % is_moe_.size());
      const auto expert = static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(geometry_.num_experts));
      if (is_moe_[static_cast<size_t>(layer)]) {
        ids.push_back(static_cast<ExpertId>(layer * geometry_.num_experts + expert));
      }
    }
    return ids;
  }

  LayerDecision Decide(int64_t layer, std::span<const ExpertWork> work, const Residency& residency) override {
    shares_.clear();
    for (const ExpertWork& item : work) {
      const int64_t resident = residency.Resident(residency.IdOf(layer, item.expert));
      ExpertShare share;
      switch (rng_.NextBits() % 4) {
        case 0:
          share.fetch = geometry_.num_slices - resident;
          break;
        case 1:
          share.fetch = Below(geometry_.num_slices - resident + 1);
          break;
        case 2:
          share.cpu_resident = Below(resident + 1);
          break;
        default:
          break;
      }
      shares_.push_back(share);
    }
    const int64_t idle = (geometry_.num_experts - std::ssize(work)) * geometry_.num_slices;
    return {.shares = shares_, .idle_copies = rng_.NextBits() % 4 == 0 ? Below(idle + 1) : 0, .times = {}};
  }

 private:
  int64_t Below(int64_t bound) {
    return static_cast<int64_t>(rng_.NextBits() % static_cast<uint64_t>(bound));
  }

  Rng rng_;
  const PolicyGeometry geometry_;
  const std::vector<bool> is_moe_;
  ResidencyOptions options_;
  std::vector<ExpertShare> shares_;
};

// Sanitizers take ten times as long.
constexpr uint64_t kSeeds = kSanitized ? 100 : 1000;
constexpr uint64_t kShards = 10;

class RandomPlansTest : public testing::TestWithParam<uint64_t> {};

TEST_P(RandomPlansTest, SameLogitsWhateverThePlan) {
  for (uint64_t seed = GetParam(); seed < kSeeds; seed += kShards) {
    Rng rng(seed);
    const bool shared = seed % 2 == 1;
    const PackedModel& model = rng.NextBits() % 4 == 0 ? ModelOnDisk(shared) : ModelOf(shared);
    const Script script(rng, model.spec.vocab_size);
    ThreadPool pool(1 + static_cast<int>(rng.NextBits() % 3), DiscoverTopology());
    HostForward host(ModelOf(shared), BestKernels(), pool, Limits());
    const std::vector<float> expected = script.Run(host);

    const auto slots =
        static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(NeedsOf(model).num_expert_slices + 1));
    EmulatorOptions options;
    if (rng.NextBits() % 4 != 0) options.adversary_seed = rng.NextBits();
    if (rng.NextBits() % 4 != 0) options.pool = &pool;
    const uint64_t policy = rng.NextBits() % (PolicyNames().size() + 6);
    const PolicyFactory make = policy < PolicyNames().size()
                                   ? Named(PolicyNames()[policy])
                                   : [&](const PolicyGeometry& geometry, const CostModel&) {
                                       return std::make_unique<RandomPolicy>(seed, geometry);
                                     };
    Machine machine(model, slots, options, make);
    DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
    const std::vector<float> logits = script.Run(forward);
    ASSERT_LE(MaxDifference(logits, expected), kLogitTolerance)
        << "seed " << seed << ", " << slots << " slots, policy " << policy;
    const FiddlerMemory memory = machine.device->memory();
    ASSERT_LE(memory.peak_bytes, machine.setup.memory_bytes);
    if (policy >= PolicyNames().size()) {  // takes all slots there are: the prediction is exact
      ASSERT_LE(machine.setup.memory_bytes - memory.peak_bytes, DeviceArena::kAlignment);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomPlansTest, testing::Range(uint64_t{0}, kShards));

// Against transformers itself: every family, every policy, with room for half of the experts.
class GoldenOnDeviceTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenOnDeviceTest, SameLogitsAsTransformers) {
  const Golden golden(kGoldenDir / GetParam());
  const PackedModel model = LoadPacked(kGoldenDir / GetParam() / "model");
  ThreadPool pool(2, DiscoverTopology());
  for (const std::string_view policy : PolicyNames()) {
    EmulatorOptions options;
    options.pool = &pool;
    options.adversary_seed = 11;
    EXPECT_LE(
        MaxDifference(LogitsOnDevice(model, golden.input_ids, Arithmetic::kExact, policy, pool, options),
                      golden.logits),
        kLogitTolerance)
        << policy;
  }
}

INSTANTIATE_TEST_SUITE_P(Transformers, GoldenOnDeviceTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// An event that a stream does not wait for is seen in the logits: for every wait of a run there is an order
// of the streams that shows it.
TEST(PlantedFaultTest, EveryEventWaitIsNeeded) {
  const PackedModel& model = ModelOf(false);
  Rng rng(9);
  Script script(rng, model.spec.vocab_size);
  // All at once, so that more experts are fetched than the ring has room for; all seen.
  script.steps = {{std::ssize(script.tokens[0]), std::ssize(script.tokens[1])}};
  script.looked_at = {true};
  ThreadPool pool(2, DiscoverTopology());
  HostForward host(model, BestKernels(), pool, Limits());
  const std::vector<float> expected = script.Run(host);
  const auto run = [&](uint64_t adversary, std::optional<int64_t> drop) {
    EmulatorOptions options;
    options.adversary_seed = adversary;
    options.pool = &pool;
    options.drop_wait = drop;
    Machine machine(model, 0, options, Named("expert-cache"));
    DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
    try {
      const float difference = MaxDifference(script.Run(forward), expected);
      return std::pair(difference, EmulatedWaits(*machine.device));
    } catch (const Error&) {
      return std::pair(INFINITY, int64_t{0});
    }
  };
  const auto [difference, waits] = run(1, std::nullopt);
  ASSERT_LE(difference, kLogitTolerance);
  ASSERT_GT(waits, 10);
  for (int64_t wait = 0; wait < waits; ++wait) {
    bool caught = false;
    for (uint64_t adversary = 0; adversary < 12 && !caught; ++adversary) {
      caught = run(adversary, wait).first > kLogitTolerance;
    }
    EXPECT_TRUE(caught) << "wait " << wait << " of " << waits;
  }
}

// A model whose layers are all dense needs no slots, and nothing to pass slices through.
TEST(DeviceForwardTest, AModelWithoutExpertsTakesWhatWasPredicted) {
  ModelConfig config = ConfigOf(true);
  for (LayerSpec& layer : config.spec.layers) layer.is_moe = false;
  config.spec.dense_intermediate = 200;
  const PackedModel model = Pack(MakeDummyModel(std::move(config), 1, DType::kF32));
  ThreadPool pool(2, DiscoverTopology());
  for (uint64_t seed = 0; seed < 24; ++seed) {  // no routing comes back: only the logits make the host wait
    Rng rng(seed);
    const Script script(rng, model.spec.vocab_size);
    HostForward host(model, BestKernels(), pool, Limits());
    EmulatorOptions options;
    options.pool = &pool;
    if (seed % 2 == 1) options.adversary_seed = seed;
    Machine machine(model, 0, options, Named("balanced"));
    DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
    EXPECT_LE(MaxDifference(script.Run(forward), script.Run(host)), kLogitTolerance) << "seed " << seed;
    EXPECT_LE(machine.setup.memory_bytes - machine.device->memory().peak_bytes, DeviceArena::kAlignment);
  }
}

// A second slice of INT8 lies on 64 bytes, not on 256.
TEST(DeviceForwardTest, QuantizedExperts) {
  Rng rng(4);
  ThreadPool pool(2, DiscoverTopology());
  EmulatorOptions options;
  options.pool = &pool;
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
    const PackedModel model =
        Pack(MakeDummyModel(ConfigOf(false), 5, DType::kF32), {.quantization = quantization});
    const Script script(rng, model.spec.vocab_size);
    HostForward host(model, BestKernels(), pool, Limits());
    for (const std::string_view policy : PolicyNames()) {
      Machine machine(model, 7, options, Named(policy));
      DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
      EXPECT_LE(MaxDifference(script.Run(forward), script.Run(host)), kLogitTolerance) << policy;
    }
  }
}

// A disk that fails leaves nothing behind: no flag that the next layer would take for its own.
TEST(DeviceForwardTest, GoesOnAfterAReadThatFailed) {
  const TempFolder folder;
  const std::filesystem::path file = folder.path() / "experts";
  ThreadPool pool(2, DiscoverTopology());
  const PackedModel model =
      PackToDisk(MakeDummyModel(ConfigOf(false), 5, DType::kF32), {}, file, /*slots=*/4, pool);
  Rng rng(3);
  const Script script(rng, model.spec.vocab_size);
  HostForward host(ModelOf(false), BestKernels(), pool, Limits());
  const std::vector<float> expected = script.Run(host);
  EmulatorOptions options;
  options.pool = &pool;
  for (const std::string_view policy : PolicyNames()) {
    Machine machine(model, 0, options, Named(policy));
    DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
    const std::string good = ReadFile(file, uint64_t{1} << 30);
    std::string bad = good;
    for (size_t i = PackedHeader::kPageBytes; i < bad.size(); ++i) bad[i] = static_cast<char>(~bad[i]);
    folder.Write("experts", bad);
    EXPECT_NE(ErrorOf([&] { script.Run(forward); }).find(file.string()), std::string::npos) << policy;
    folder.Write("experts", good);
    EXPECT_LE(MaxDifference(script.Run(forward), expected), kLogitTolerance) << policy;
  }
}

// Pinned while the model already answers; given back, so that it can be again.
TEST(DeviceForwardTest, TheExpertsArePinnedInTheBackground) {
  for (const bool on_disk : {false, true}) {
    const PackedModel& model = on_disk ? ModelOnDisk(false) : ModelOf(false);
    ThreadPool pool(2, DiscoverTopology());
    Rng rng(4);
    const Script script(rng, model.spec.vocab_size);
    HostForward host(ModelOf(false), BestKernels(), pool, Limits());
    EmulatorOptions options;
    options.pool = &pool;
    Machine machine(model, 5, options, Named("balanced"));
    for (int run = 0; run < 2; ++run) {
      BackgroundPin pin(*machine.device, model.host_experts->memory());
      DeviceForward forward(model, BestKernels(), pool, Limits(), machine.setup);
      EXPECT_LE(MaxDifference(script.Run(forward), script.Run(host)), kLogitTolerance);
      EXPECT_EQ(pin.Finish(), "");
      EXPECT_EQ(pin.pinned_bytes(), pin.bytes());
      const SlicedFfn& expert = ModelOf(false).weights.layers.front().experts.front();
      const uint64_t count = on_disk ? 4 : 6 * model.spec.layers.size();
      EXPECT_GE(pin.bytes(), count * expert.bytes());
    }
  }
}

TEST(BackgroundPinTest, WhatCannotBePinnedIsSaidAndTheRestGivenBack) {
  EmulatorOptions options;
  ThreadPool pool(1, DiscoverTopology());
  options.pool = &pool;
  options.memory_bytes = 1 << 20;
  const std::unique_ptr<Device> device = OpenEmulatedDevice(options, BestKernels());
  const HugePageBuffer memory(3 * 4096, "test");
  const std::span<const std::byte> all = memory.bytes();
  device->Pin(all.subspan(4096, 4096));
  {
    BackgroundPin pin(*device, {all.first(4096), all.subspan(4096, 4096), all.subspan(8192)});
    EXPECT_NE(pin.Finish().find("pinned already"), std::string::npos);
    EXPECT_EQ(pin.pinned_bytes(), 4096u);
  }
  device->Unpin(all.subspan(4096, 4096));
  device->Pin(all);  // nothing of it is pinned any more
  device->Unpin(all);
}

TEST(DeviceForwardTest, TooLittleDeviceMemoryIsRefusedWithWhatIsNeeded) {
  const PackedModel& model = ModelOf(false);
  ThreadPool pool(1, DiscoverTopology());
  EmulatorOptions options;
  options.pool = &pool;
  Machine machine(model, 0, options, Named("balanced"));
  machine.setup.memory_bytes -= 1;
  const std::string error =
      ErrorOf([&] { DeviceForward(model, BestKernels(), pool, Limits(), machine.setup); });
  EXPECT_NE(error.find("GPU memory: weights that every token passes"), std::string::npos) << error;
}

}  // namespace
}  // namespace fiddler
