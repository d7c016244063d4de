#include "engine/pack_model.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <mutex>

#include "base/file.h"
#include "base/json.h"
#include "base/sanitized.h"
#include "engine/test_models.h"
#include "io/dummy_weights.h"
#include "io/test_files.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

// A matrix as its source has it, [rows, cols].
std::vector<float> ReadMatrix(const WeightSource& source, const StoredMatrix& matrix) {
  std::vector<std::byte> bytes(matrix.bytes());
  source.Read(matrix.tensor, matrix.OffsetOf(0), bytes);
  const size_t size = DTypeBytes(matrix.dtype());
  std::vector<float> values(bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * size, size);
    const auto half = static_cast<uint16_t>(bits);
    values[i] = matrix.dtype() == DType::kF32   ? std::bit_cast<float>(bits)
                : matrix.dtype() == DType::kF16 ? ToFloat(F16{half})
                                                : ToFloat(BF16{half});
  }
  return values;
}

std::vector<float> Unpack(const PackedMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) UnpackRow(matrix, r, values.data() + r * matrix.cols);
  return values;
}

void ExpectRow(const PackedMatrix& matrix, int64_t row, const float* want, int64_t cols) {
  std::vector<float> got(static_cast<size_t>(matrix.cols));
  UnpackRow(matrix, row, got.data());
  for (int64_t c = 0; c < matrix.cols; ++c) {
    ASSERT_EQ(got[static_cast<size_t>(c)], want != nullptr && c < cols ? want[c] : 0.0F) << row << " " << c;
  }
}

// Every neuron in its place, every place of padding zero.
void ExpectFfn(const WeightSource& source, const PackLayout::Ffn& ffn) {
  const std::vector<float> gate = ReadMatrix(source, ffn.from->gate);
  const std::vector<float> up = ReadMatrix(source, ffn.from->up);
  const std::vector<float> down = ReadMatrix(source, ffn.from->down);
  const int64_t hidden = ffn.to.hidden;
  for (int64_t n = 0; n < ffn.to.padded_neurons(); ++n) {
    const PackedMatrix rows = ffn.to.GateUp(n / ffn.to.slice_neurons);
    const int64_t in_slice = n % ffn.to.slice_neurons;
    const int64_t row = in_slice / 16 * 32 + in_slice % 16;
    const bool real = n < ffn.to.intermediate;
    ExpectRow(rows, row, real ? gate.data() + n * hidden : nullptr, hidden);
    ExpectRow(rows, row + 16, real ? up.data() + n * hidden : nullptr, hidden);
  }
  for (int64_t s = 0; s < ffn.to.num_slices(); ++s) {
    const int64_t first = s * ffn.to.slice_neurons;
    for (int64_t r = 0; r < hidden; ++r) {
      ExpectRow(ffn.to.Down(s), r, down.data() + r * ffn.to.intermediate + first,
                std::min(ffn.to.slice_neurons, ffn.to.intermediate - first));
    }
  }
}

std::vector<std::string> Goldens() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(FIDDLER_SOURCE_DIR) / "tests/oracle/golden")) {
    if (entry.path().filename() != "mixtral-dynamic") names.push_back(entry.path().filename());  // refused
  }
  return names;
}

// All families, types, tensor layouts (experts in one tensor or in many), shared experts, dense layers.
TEST(PackModelTest, EveryWeightIsWhereItBelongs) {
  for (const std::string& golden : Goldens()) {
    SCOPED_TRACE(golden);
    const Model model = OpenModel(ReadModelConfig(GoldenModel(golden).string()));
    for (const int64_t slice_neurons : {0, 64}) {
      const PackFormat format = {.slice_neurons = slice_neurons};
      const PackedModel packed = Pack(model, format);
      const PackLayout layout = LayOut(model, format, packed.memory.bytes().data());
      for (const PackLayout::Matrix& matrix : layout.matrices) {
        ASSERT_EQ(Unpack(matrix.to), ReadMatrix(*model.source, *matrix.from)) << matrix.from->tensor.name;
      }
      for (const PackLayout::Ffn& ffn : layout.ffns) ASSERT_NO_FATAL_FAILURE(ExpectFfn(*model.source, ffn));
      const PackedLayer& layer = packed.weights.layers[0];
      EXPECT_EQ(layer.k.data, layer.q.data + layer.q.bytes());
      EXPECT_EQ(layer.v.data, layer.k.data + layer.k.bytes());
      EXPECT_EQ(layer.attention_norm, model.weights.layers[0].attention_norm);
    }
  }
}

TEST(PackModelTest, ExpertsOfSeveralSlicesOfAnySize) {
  ModelConfig config = ReadModelConfig(GoldenModel("qwen2-base").string());
  config.spec.moe.intermediate = 200;
  config.spec.moe.shared_intermediate = 330;
  const Model model = MakeDummyModel(config, 3, DType::kBF16);
  for (const int64_t slice_neurons : {0, 64, 128}) {
    const PackFormat format = {.slice_neurons = slice_neurons};
    const PackedModel packed = Pack(model, format);
    const PackLayout layout = LayOut(model, format, packed.memory.bytes().data());
    for (const PackLayout::Ffn& ffn : layout.ffns) {
      EXPECT_GE(ffn.to.num_slices(), 2);
      ASSERT_NO_FATAL_FAILURE(ExpectFfn(*model.source, ffn));
    }
  }
}

TEST(PackModelTest, WhatIsQuantizedAndWhatIsNot) {
  const Model model = OpenModel(ReadModelConfig(GoldenModel("qwen2-published-window").string()));
  for (const Quantization quantization : {Quantization::kInt8, Quantization::kInt4}) {
    const WeightFormat format =
        quantization == Quantization::kInt8 ? WeightFormat::kInt8 : WeightFormat::kInt4;
    const PackedWeights weights = LayOut(model, {.quantization = quantization}).weights;
    EXPECT_EQ(weights.embedding.format, FormatOf(model.weights.embedding.dtype()));
    EXPECT_EQ(weights.head.format, WeightFormat::kInt8);
    for (const PackedLayer& layer : weights.layers) {
      for (const PackedMatrix* matrix : {&layer.q, &layer.k, &layer.v, &layer.o}) {
        EXPECT_EQ(matrix->format, format);
      }
      if (layer.experts.empty()) {
        EXPECT_EQ(layer.dense.format, format);
        continue;
      }
      for (const SlicedFfn& expert : layer.experts) EXPECT_EQ(expert.format, format);
      EXPECT_EQ(layer.shared.format, format);
      EXPECT_EQ(layer.router.format, WeightFormat::kF32);
      EXPECT_EQ(layer.shared_router.format, WeightFormat::kF32);
    }
  }
}

TEST(PackModelTest, ATiedHeadIsTheEmbeddingUnlessItIsQuantized) {
  ModelConfig config = ReadModelConfig(GoldenModel("qwen3-base").string());
  config.spec.tied_embeddings = true;
  const Model model = MakeDummyModel(config, 1, DType::kBF16);
  const PackedModel plain = Pack(model);
  EXPECT_EQ(plain.weights.head.data, plain.weights.embedding.data);
  const PackedModel quantized = Pack(model, {.quantization = Quantization::kInt4});
  EXPECT_NE(quantized.weights.head.data, quantized.weights.embedding.data);
  EXPECT_EQ(quantized.weights.embedding.format, WeightFormat::kBF16);
  EXPECT_EQ(TotalBytes(quantized.weights), DenseBytes(quantized.weights) + ExpertBytes(quantized.weights) +
                                               quantized.weights.embedding.bytes());
}

TEST(PackModelTest, ExpertsOfSeveralTypesShareAFormatThatHoldsAll) {
  Model model = MakeDummyModel(ReadModelConfig(GoldenModel("mixtral-base").string()), 1, DType::kBF16);
  EXPECT_EQ(LayOut(model, {}).weights.layers[0].experts[0].format, WeightFormat::kBF16);
  model.weights.layers[1].experts[2].down.tensor.dtype = DType::kF16;
  const PackedWeights weights = LayOut(model, {}).weights;
  for (const PackedLayer& layer : weights.layers) {
    for (const SlicedFfn& expert : layer.experts) EXPECT_EQ(expert.format, WeightFormat::kF32);
  }
}

// One product makes q, k and v, so they need one format.
TEST(PackModelTest, ProjectionsOfSeveralTypesShareAFormatThatHoldsAll) {
  Model model = MakeDummyModel(ReadModelConfig(GoldenModel("mixtral-base").string()), 1, DType::kBF16);
  model.weights.layers[1].v.tensor.dtype = DType::kF16;
  const PackedWeights weights = LayOut(model, {}).weights;
  EXPECT_EQ(weights.layers[0].q.format, WeightFormat::kBF16);
  for (const PackedMatrix* matrix : {&weights.layers[1].q, &weights.layers[1].k, &weights.layers[1].v}) {
    EXPECT_EQ(matrix->format, WeightFormat::kF32);
  }
  EXPECT_EQ(weights.layers[1].o.format, WeightFormat::kBF16);
}

// Counts what is asked of a source.
class CountingSource final : public WeightSource {
 public:
  explicit CountingSource(std::unique_ptr<WeightSource> source) : source_(std::move(source)) {}

  WeightIdentity Identity() const override { return source_->Identity(); }
  bool Has(std::string_view name) const override { return source_->Has(name); }
  TensorInfo Require(std::string_view name, const Shape& shape) const override {
    return source_->Require(name, shape);
  }
  void Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override {
    if (reads_until_failure-- == 0) throw Error("the disk failed");
    source_->Read(tensor, offset, out);
    Count(read, tensor, offset, out.size());
  }
  void Prefetch(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override {
    Count(prefetched, tensor, offset, bytes);
  }
  void Release(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override {
    Count(released, tensor, offset, bytes);
  }

  // For each tensor, how often each of its elements came up (counted at its first byte).
  using Counts = std::map<std::string, std::vector<int>>;
  mutable Counts read;
  mutable Counts prefetched;
  mutable Counts released;
  mutable std::atomic<int> reads_until_failure = -1;

 private:
  void Count(Counts& counts, const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const {
    const std::lock_guard lock(mutex_);
    std::vector<int>& count = counts[tensor.name];
    const size_t size = DTypeBytes(tensor.dtype);
    count.resize(std::max<size_t>(count.size(), (offset + bytes) / size));
    for (uint64_t i = offset / size; i < (offset + bytes) / size; ++i) ++count[i];
  }

  std::unique_ptr<WeightSource> source_;
  mutable std::mutex mutex_;
};

struct CountedModel {
  Model model;
  CountingSource* source;  // that of the model
};

CountedModel OpenCounted(std::string_view golden) {
  CountedModel counted = {OpenModel(ReadModelConfig(GoldenModel(golden).string())), nullptr};
  auto source = std::make_unique<CountingSource>(std::move(counted.model.source));
  counted.source = source.get();
  counted.model.source = std::move(source);
  return counted;
}

class CountingProgress final : public Progress {
 public:
  void Start(std::string_view, uint64_t total_bytes) override { total = total_bytes; }
  void Advance(uint64_t bytes) override { done += bytes; }
  void Finish() override { finished = true; }

  uint64_t total = 0;
  std::atomic<uint64_t> done = 0;
  bool finished = false;
};

void ExpectOnce(const CountingSource::Counts& counts) {
  EXPECT_FALSE(counts.empty());
  for (const auto& [name, count] : counts) {
    EXPECT_TRUE(std::ranges::all_of(count, [](int times) { return times == 1; })) << name;
  }
}

TEST(PackModelTest, EveryByteIsAskedForReadAndReleasedOnce) {
  for (const char* golden : {"qwen2-published-window", "qwen3-sparse-step-f16"}) {
    const auto [model, source] = OpenCounted(golden);
    ThreadPool pool(3, DiscoverTopology());
    CountingProgress progress;
    const uint64_t bytes = LayOut(model, {}).bytes;
    const PackedModel packed = PackModel(model, {.format = {}, .usable_memory = bytes}, pool, progress);
    ExpectOnce(source->read);
    EXPECT_EQ(source->read, source->prefetched);
    EXPECT_EQ(source->read, source->released);  // there is room for the packed weights, not for more
    EXPECT_EQ(progress.done, progress.total);
    EXPECT_TRUE(progress.finished);
  }
}

TEST(PackModelTest, WithRoomForBothThePageCacheIsLeftAlone) {
  const auto [model, source] = OpenCounted("mixtral-base");
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  PackModel(model, {.format = {}, .usable_memory = uint64_t{1} << 30}, pool, progress);
  EXPECT_TRUE(source->released.empty());
}

TEST(PackModelTest, AFailingDiskIsAnError) {
  const CountedModel counted = OpenCounted("mixtral-base");
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  counted.source->reads_until_failure = 5;
  EXPECT_EQ(ErrorOf([&] {
              PackModel(counted.model, {.format = {}, .usable_memory = uint64_t{1} << 30}, pool, progress);
            }),
            "the disk failed");
}

TEST(PackModelTest, WhatDoesNotFitIsRefusedBeforeAnythingIsRead) {
  const Model model = MakeDummyModel(ReadModelConfig("mixtral-8x7b"), 1, DType::kBF16);
  ThreadPool pool(1, DiscoverTopology());
  NoProgress progress;
  const auto error = [&](Quantization quantization, uint64_t gib) {
    return ErrorOf([&] {
      PackModel(model, {.format = {.quantization = quantization}, .usable_memory = gib << 30}, pool,
                progress);
    });
  };
  EXPECT_EQ(
      error(Quantization::kNone, 64),
      "mixtral-8x7b: weights: expected 87.0 GiB of free memory, got 64.0 GiB; --quant int8 needs 45.0 GiB");
  EXPECT_EQ(
      error(Quantization::kNone, 32),
      "mixtral-8x7b: weights: expected 87.0 GiB of free memory, got 32.0 GiB; --quant int4 needs 24.7 GiB");
  EXPECT_EQ(
      error(Quantization::kInt8, 32),
      "mixtral-8x7b: weights: expected 45.0 GiB of free memory, got 32.0 GiB; --quant int4 needs 24.7 GiB");
  EXPECT_EQ(error(Quantization::kInt4, 8),
            "mixtral-8x7b: weights: expected 24.7 GiB of free memory, got 8.0 GiB");
}

// Bytes of a line of /proc/self/status, such as "VmHWM:".
uint64_t StatusBytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size())) * 1024;
  }
  return 0;
}

// Some 150 MB of weights, written tensor by tensor.
ModelConfig WriteCheckpoint(const TempFolder& folder) {
  Json json = ParseJson(ReadFile(GoldenModel("mixtral-base") / "config.json", 1 << 20), "config.json");
  json.update({{"hidden_size", 1024},
               {"intermediate_size", 3008},  // 47 * 64
               {"num_hidden_layers", 2},
               {"num_attention_heads", 8},
               {"num_key_value_heads", 4},
               {"head_dim", 128},
               {"vocab_size", 4096}});
  folder.Write("config.json", json.dump());
  ModelConfig config = ReadModelConfig(folder.path().string());
  const Model model = MakeDummyModel(config, 5, DType::kBF16);

  class Recorder final : public WeightSource {
   public:
    WeightIdentity Identity() const override { return {}; }
    bool Has(std::string_view) const override { return false; }
    TensorInfo Require(std::string_view name, const Shape& shape) const override {
      required.push_back({std::string(name), DType::kBF16, shape});
      return required.back();
    }
    void Read(const TensorInfo&, uint64_t, std::span<std::byte>) const override {}
    void Prefetch(const TensorInfo&, uint64_t, uint64_t) const override {}
    void Release(const TensorInfo&, uint64_t, uint64_t) const override {}
    mutable std::vector<TensorInfo> required;
  } recorder;
  FindWeights(config.spec, config.architecture->names, recorder);
  Json header = Json::object();
  uint64_t end = 0;
  const auto bytes_of = [](const TensorInfo& tensor) {
    uint64_t bytes = 2;
    for (const int64_t dimension : tensor.shape) bytes *= static_cast<uint64_t>(dimension);
    return bytes;
  };
  for (const TensorInfo& tensor : recorder.required) {
    const uint64_t begin = end;
    end += bytes_of(tensor);
    header[tensor.name] = {{"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  std::ofstream file(folder.path() / "model.safetensors", std::ios::binary);
  file << LittleEndian64(text.size()) << text;
  for (const TensorInfo& tensor : recorder.required) {
    std::vector<std::byte> bytes(bytes_of(tensor));
    model.source->Read(tensor, 0, bytes);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  return config;
}

TEST(PackModelTest, PeakMemoryIsThePackedWeightsAndLittleMore) {
  if (kSanitized) GTEST_SKIP() << "sanitizers have memory of their own";
  const TempFolder folder;
  const ModelConfig config = WriteCheckpoint(folder);
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  for (const bool made_up : {false, true}) {
    const uint64_t before = StatusBytes("VmRSS:");
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew
    const Model model = made_up ? MakeDummyModel(config, 5, DType::kBF16) : OpenModel(config);
    const PackedModel packed = PackModel(model, {.format = {}, .usable_memory = {}}, pool, progress);
    const uint64_t bytes = TotalBytes(packed.weights);
    EXPECT_GT(bytes, uint64_t{150'000'000});
    const uint64_t peak = StatusBytes("VmHWM:") - before;
    EXPECT_LT(peak, bytes + bytes / 20);
    EXPECT_GT(peak, bytes * 9 / 10);  // and it was measured
  }
}

}  // namespace
}  // namespace fiddler
