// With experts on disk, whatever fits of them in memory, a model computes the same bits as in memory.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/expert_file.h"
#include "engine/host_forward.h"
#include "engine/host_memory.h"
#include "engine/test_models.h"
#include "io/checkpoint.h"
#include "io/test_files.h"
#include "kernels/dispatch.h"

namespace fiddler {
namespace {

// Logits of every step: a prompt in chunks, then some tokens one by one.
std::vector<float> RunTokens(const PackedModel& model, ThreadPool& pool, Arithmetic arithmetic) {
  const std::vector<BlockId> blocks = {3, 1, 0, 2};
  HostForward forward(
      model, BestKernels(), pool,
      {.batch_tokens = 40, .positions = 128, .kv_blocks = 4, .logit_rows = 40, .arithmetic = arithmetic});
  std::vector<float> all;
  Rng rng(7);
  int64_t position = 0;
  for (const int64_t count : {40, 17, 2, 1, 1, 1, 1, 1, 1, 1, 1}) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(rng.NextBits() % static_cast<uint64_t>(model.spec.vocab_size));
    const BatchEntry entry = {.tokens = tokens, .first_position = position, .block_table = blocks};
    forward.Run({&entry, 1});
    std::vector<int32_t> rows(tokens.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
    const std::span<const float> logits = forward.Logits(rows);
    all.insert(all.end(), logits.begin(), logits.end());
    position += count;
  }
  return all;
}

class DiskTierTest : public testing::TestWithParam<const char*> {};

TEST_P(DiskTierTest, TheSameLogitsToTheLastBit) {
  const Model model = OpenModel(ReadModelConfig(GoldenModel(GetParam()).string()));
  ThreadPool pool(2, DiscoverTopology());
  for (const auto quantization : {Quantization::kNone, Quantization::kInt4}) {
    const PackFormat format = {.quantization = quantization};
    const PackedModel in_memory = Pack(model, format);
    const TempFolder folder;
    for (const Arithmetic arithmetic : {Arithmetic::kFast, Arithmetic::kExact}) {
      const std::vector<float> want = RunTokens(in_memory, pool, arithmetic);
      for (const int64_t slots : {int64_t{1}, model.spec().moe.top_k + 1, model.spec().moe.num_experts + 2}) {
        const PackedModel on_disk = PackToDisk(model, format, folder.path() / "experts", slots, pool);
        const std::vector<float> got = RunTokens(on_disk, pool, arithmetic);
        ASSERT_EQ(got.size(), want.size());
        EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << slots << " slots";
        const HostExperts::Traffic traffic = on_disk.host_experts->traffic();
        EXPECT_GT(traffic.misses, slots) << "nothing was evicted";
      }
    }
  }
}

// Shared experts, layers without experts, fused tensors, shapes that pad a slice.
INSTANTIATE_TEST_SUITE_P(Models, DiskTierTest,
                         testing::Values("mixtral-base", "qwen2-base", "qwen2-fused", "qwen3-sparse-step-f16",
                                         "olmoe-clip-gqa"),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

// Large enough that prompts run by columns and tokens in shares.
TEST(DiskTierRunsTest, TheSameLogitsByColumnsAndInShares) {
  ModelConfig config = ReadModelConfig(GoldenModel("mixtral-base").string());
  config.spec.hidden = 512;
  config.spec.moe.intermediate = 1500;
  const Model model = MakeDummyModel(std::move(config), 3, DType::kBF16);
  ThreadPool pool(3, DiscoverTopology());
  const TempFolder folder;
  const std::vector<float> want = RunTokens(Pack(model), pool, Arithmetic::kFast);
  for (const int64_t slots : {1, 3, 5}) {
    const PackedModel on_disk = PackToDisk(model, {}, folder.path() / "experts", slots, pool);
    const std::vector<float> got = RunTokens(on_disk, pool, Arithmetic::kFast);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << slots << " slots";
  }
}

TEST(HostPlanTest, SlotsAreWhatTheBudgetLeaves) {
  const Model model = MakeDummyModel(ReadModelConfig("mixtral-8x7b"), 1, DType::kBF16);
  ThreadPool pool(1, DiscoverTopology());
  const ForwardLimits limits = LimitsOf({.max_positions = 1000});
  const uint64_t engine_bytes = EngineBytes(model, {}, BestKernels(), pool, {&limits, 1});
  const HostPlan small = PlanHost(model, {}, engine_bytes, uint64_t{8} << 30);
  EXPECT_EQ(small.num_experts, 256);
  EXPECT_EQ(small.expert_bytes, 256 * small.slot_bytes);
  EXPECT_GT(small.expert_slots, 3);
  EXPECT_FALSE(small.all_in_memory());
  // The smallest budget works, a little less does not.
  constexpr uint64_t kNoise = uint64_t{8} << 20;  // what is resident changes as the test runs
  EXPECT_EQ(PlanHost(model, {}, engine_bytes, small.smallest_bytes + kNoise).expert_slots, 3);
  EXPECT_FALSE(PlanHost(model, {}, engine_bytes, small.smallest_bytes - kNoise).fits());
  EXPECT_TRUE(PlanHost(model, {}, engine_bytes, uint64_t{100} << 30).all_in_memory());
  // A gibibyte more is as many slots more.
  const HostPlan more = PlanHost(model, {}, engine_bytes, uint64_t{24} << 30);
  EXPECT_NEAR(static_cast<double>(more.expert_slots - small.expert_slots),
              static_cast<double>(uint64_t{16} << 30) / static_cast<double>(small.slot_bytes), 1.1);
}

TEST(ExpertFileTest, TheIdentityFollowsWhatItIsPackedFrom) {
  const ModelConfig config = ReadModelConfig(GoldenModel("mixtral-base").string());
  const PackedHeader one = DescribeExperts(MakeDummyModel(config, 1, DType::kBF16), {});
  EXPECT_TRUE(one.Describes(DescribeExperts(MakeDummyModel(config, 1, DType::kBF16), {})));
  EXPECT_FALSE(one.Describes(DescribeExperts(MakeDummyModel(config, 2, DType::kBF16), {})));
  EXPECT_FALSE(one.Describes(DescribeExperts(OpenModel(config), {})));
  EXPECT_FALSE(one.Describes(
      DescribeExperts(MakeDummyModel(config, 1, DType::kBF16), {.quantization = Quantization::kInt8})));

  const TempFolder folder;  // a checkpoint that is touched is another one
  std::filesystem::copy(GoldenModel("mixtral-base"), folder.path() / "model");
  const auto describe = [&] {
    return DescribeExperts(OpenModel(ReadModelConfig((folder.path() / "model").string())), {});
  };
  const PackedHeader before = describe();
  EXPECT_TRUE(before.Describes(describe()));
  const std::filesystem::path file = folder.path() / "model/model.safetensors";
  std::filesystem::last_write_time(file, std::filesystem::last_write_time(file) + std::chrono::seconds(1));
  EXPECT_FALSE(before.Describes(describe()));
}

TEST(ExpertFileTest, EveryExpertIsSampled) {
  for (const char* golden : {"mixtral-base", "qwen2-fused"}) {  // a tensor each, one for all
    const TempFolder folder;
    std::filesystem::copy(GoldenModel(golden), folder.path() / "model");
    const auto open = [&] { return OpenModel(ReadModelConfig((folder.path() / "model").string())); };
    const std::filesystem::path file = folder.path() / "model/model.safetensors";
    const auto modified = std::filesystem::last_write_time(file);
    const Model model = open();
    const PackedHeader before = DescribeExperts(model, {});
    const auto& checkpoint = dynamic_cast<const Checkpoint&>(*model.source);
    for (const LayerWeights& layer : model.weights.layers) {
      for (const FfnWeights& expert : layer.experts) {
        for (const StoredMatrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
          const TensorView& tensor = *checkpoint.Find(matrix->tensor.name);
          const auto begin = static_cast<std::streamoff>(tensor.bytes.data() -
                                                         checkpoint.files().front().file().bytes().data());
          const auto change = [&] {
            std::vector<char> bytes(matrix->bytes());
            std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
            stream.seekg(begin + static_cast<std::streamoff>(matrix->OffsetOf(0)));
            stream.read(bytes.data(), std::ssize(bytes));
            for (char& byte : bytes) byte = static_cast<char>(byte ^ 0x80);
            stream.seekp(begin + static_cast<std::streamoff>(matrix->OffsetOf(0)));
            stream.write(bytes.data(), std::ssize(bytes));
            stream.close();
            std::filesystem::last_write_time(file, modified);
          };
          change();
          EXPECT_FALSE(before.Describes(DescribeExperts(open(), {}))) << matrix->tensor.name;
          change();
          EXPECT_TRUE(before.Describes(DescribeExperts(open(), {})));
        }
      }
    }
  }
}

TEST(ExpertFileTest, TheDefaultNameFollowsThePlaceNotTheContent) {
  const TempFolder folder;
  setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
  for (const char* name : {"one", "other"}) {
    std::filesystem::create_directories(folder.path() / name);
    std::filesystem::copy(GoldenModel("mixtral-base"), folder.path() / name / "model");
  }
  const auto name_of = [&](const char* name, Quantization quantization = Quantization::kNone) {
    const Model model = OpenModel(ReadModelConfig((folder.path() / name / "model").string()));
    return DefaultExpertFile(model, {.quantization = quantization});
  };
  const std::filesystem::path before = name_of("one");
  EXPECT_EQ(before.parent_path(), folder.path() / "fiddler");
  EXPECT_EQ(name_of("one/../one/model/.."), before);
  EXPECT_NE(name_of("other"), before);
  EXPECT_NE(name_of("one", Quantization::kInt8), before);
  const ModelConfig config = ReadModelConfig((folder.path() / "one/model").string());
  EXPECT_NE(DefaultExpertFile(MakeDummyModel(config, 1, DType::kBF16), {}), before);
  const std::filesystem::path file = folder.path() / "one/model/model.safetensors";
  std::filesystem::last_write_time(file, std::filesystem::last_write_time(file) + std::chrono::seconds(1));
  EXPECT_EQ(name_of("one"), before);
}

// Files outlive the program that wrote them. If this fails, packed bytes have changed: raise the version of
// the format (packed_header.cc), so that no program computes with experts that were packed for another one.
TEST(ExpertFileTest, PackedBytesAreWhatTheVersionSays) {
  const Model model = OpenModel(ReadModelConfig(GoldenModel("mixtral-base").string()));
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  const std::pair<Quantization, uint64_t> kChecksums[] = {{Quantization::kNone, 2093617508049894850u},
                                                          {Quantization::kInt8, 14366926369615130405u},
                                                          {Quantization::kInt4, 16098003831741398876u}};
  for (const auto& [quantization, checksum] : kChecksums) {
    const PackFormat format = {.quantization = quantization};
    const TempFolder folder;
    const HugePageBuffer slots(2 * DescribeExperts(model, format).stride(), "test");
    const PackedFile file =
        FindOrPackExperts(model, format, folder.path() / "experts", slots.bytes(), pool, progress);
    EXPECT_EQ(file.header().checksums.front(), checksum) << QuantizationName(quantization);
  }
}

}  // namespace
}  // namespace fiddler
