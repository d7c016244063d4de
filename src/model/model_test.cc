// Models from directories: which files are read, and what every broken one is refused with.
#include "model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "io/test_files.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(FIDDLER_SOURCE_DIR) / "tests/oracle/golden";

struct StoredTensor {
  std::string dtype;
  Shape shape;
  std::string bytes;
};

// A golden model (one shard) in a folder of its own, its config and tensors ready to be edited.
class EditedModel {
 public:
  explicit EditedModel(std::string_view golden) {
    const fs::path from = kGoldens / golden / "model";
    config = ParseJson(ReadFile(from / "config.json", 1 << 20), "config.json");
    const SafetensorsFile file = SafetensorsFile::Open(from / "model.safetensors");
    for (const TensorView& tensor : file.tensors()) {
      std::string bytes(tensor.bytes.size(), '\0');
      std::memcpy(bytes.data(), tensor.bytes.data(), bytes.size());
      tensors[tensor.name] = {std::string(DTypeName(tensor.dtype)), tensor.shape, std::move(bytes)};
    }
  }

  const fs::path& Write() const {
    Json header = Json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const size_t begin = data.size();
      data += tensor.bytes;
      header[name] = {
          {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    folder.Write("model.safetensors", SafetensorsBytes(text, data));
    folder.Write("config.json", config.dump());
    return folder.path();
  }

  Model Open() const { return OpenModel(ReadModelConfig(Write().string())); }

  std::string ErrorOfOpening() const {
    return ErrorOf([&] { Open(); });
  }

  Json config;
  std::map<std::string, StoredTensor> tensors;
  TempFolder folder;
};

// One of each family, and one with dense layers.
constexpr std::string_view kOneShardGoldens[] = {"mixtral-window-bf16", "olmoe-published-linear-f16",
                                                 "qwen2-published-window", "qwen3-published-yarn-bf16",
                                                 "qwen3-sparse-step-f16"};

// One tensor of each role: of those that differ only in the numbers of layer and expert the first.
std::vector<std::string> OneOfEachRole(const EditedModel& model) {
  std::set<std::string> roles;
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model.tensors) {
    std::string role = name;
    std::replace_if(
        role.begin(), role.end(), [](char c) { return c >= '0' && c <= '9'; }, '#');
    if (roles.insert(role).second) names.push_back(name);
  }
  return names;
}

TEST(OpenModelTest, EveryTensorIsRequiredAndNamedWhenMissing) {
  for (std::string_view golden : kOneShardGoldens) {
    EditedModel model(golden);
    EXPECT_NO_THROW(model.Open()) << golden;
    for (const std::string& name : OneOfEachRole(model)) {
      auto tensor = model.tensors.extract(name);
      const std::string error = model.ErrorOfOpening();
      EXPECT_NE(error.find(name), std::string::npos) << golden << ": " << error;
      EXPECT_NE(error.find(model.folder.path().string()), std::string::npos) << error;
      model.tensors.insert(std::move(tensor));
    }
  }
}

TEST(OpenModelTest, EveryShapeIsChecked) {
  for (std::string_view golden : kOneShardGoldens) {
    EditedModel model(golden);
    for (const std::string& name : OneOfEachRole(model)) {
      StoredTensor& tensor = model.tensors[name];
      const Shape right = tensor.shape;
      Shape wrong = right;
      if (wrong.size() == 2 && wrong[0] != wrong[1]) {
        std::swap(wrong[0], wrong[1]);
      } else {
        wrong.push_back(1);
      }
      tensor.shape = wrong;
      const std::string error = model.ErrorOfOpening();
      for (const std::string& part :
           {name, ShapeToString(right), ShapeToString(wrong), model.folder.path().string()}) {
        EXPECT_NE(error.find(part), std::string::npos) << golden << ": " << error;
      }
      tensor.shape = right;
    }
  }
}

TEST(OpenModelTest, OnlyFloatTypesWeComputeWith) {
  for (const char* dtype : {"I32", "U32"}) {  // as wide as the float32 they replace
    EditedModel model("mixtral-base");
    for (const char* name : {"model.layers.0.self_attn.q_proj.weight", "model.norm.weight"}) {
      model.tensors[name].dtype = dtype;
      const std::string error = model.ErrorOfOpening();
      EXPECT_NE(error.find(name), std::string::npos) << error;
      EXPECT_NE(error.find(dtype), std::string::npos) << error;
      model.tensors[name].dtype = "F32";
    }
  }
}

TEST(OpenModelTest, TiedEmbeddingsNeedNoHead) {
  EditedModel model("mixtral-base");
  model.tensors.erase("lm_head.weight");
  EXPECT_NE(model.ErrorOfOpening().find("lm_head.weight"), std::string::npos);
  model.config["tie_word_embeddings"] = true;
  const Model loaded = model.Open();
  EXPECT_EQ(loaded.weights.head.tensor.name, loaded.weights.embedding.tensor.name);
}

TEST(OpenModelTest, FilesThatAreNotThere) {
  const TempFolder folder;
  const auto error_of = [&](const fs::path& path) {
    return ErrorOf([&] { ReadModelConfig(path.string()); });
  };
  const std::string missing = error_of(folder.path() / "nowhere");
  EXPECT_NE(missing.find("nowhere: expected a model directory"), std::string::npos) << missing;
  EXPECT_NE(missing.find("mixtral-8x7b"), std::string::npos) << missing;  // names the geometries there are
  const std::string empty = error_of(folder.path());
  EXPECT_NE(empty.find("config.json: expected a file"), std::string::npos) << empty;
  const std::string gguf = error_of(folder.Write("m.gguf", "GGUF"));
  EXPECT_NE(gguf.find("m.gguf: expected a Hugging Face model directory"), std::string::npos) << gguf;
  for (const char* text : {"", "{", "[]", "3", R"({"a": 1e999})"}) {
    const std::string bad = error_of(folder.Write("config.json", text));
    EXPECT_NE(bad.find("config.json: expected "), std::string::npos) << bad;
  }
}

// Their rows are packed side by side. (The bytes of a half are enough for a test that reads none.)
TEST(OpenModelTest, GateAndUpOfTwoTypesAreRefused) {
  EditedModel model("qwen3-sparse-step-f16");
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  ASSERT_EQ(model.tensors.count(up), 1);
  model.tensors[up].dtype = "BF16";
  const std::string error = ErrorOf([&] { model.Open(); });
  EXPECT_NE(error.find(up + ": expected F16 as "), std::string::npos) << error;
  EXPECT_NE(error.find("got BF16"), std::string::npos) << error;
}

TEST(OpenModelTest, AConfigAloneHasNoWeights) {
  const TempFolder folder;
  const EditedModel model("olmoe-base");
  const ModelConfig config = ReadModelConfig(folder.Write("small.json", model.config.dump()).string());
  EXPECT_EQ(config.spec.family, "olmoe");
  const std::string error = ErrorOf([&] { OpenModel(config); });
  EXPECT_NE(error.find("small.json: expected a directory with weights"), std::string::npos) << error;
  EXPECT_EQ(MakeDummyModel(config, 1, DType::kBF16).weights.layers.size(), config.spec.layers.size());
}

// Made-up weights fit every published shape: the same code asks for them by name and shape.
TEST(OpenModelTest, DummyWeightsOfEveryFamily) {
  for (const fs::directory_entry& golden : fs::directory_iterator(kGoldens)) {
    if (golden.path().filename() == "mixtral-dynamic") continue;  // refused (engine/golden_test.cc)
    const Model model = MakeDummyModel(ReadModelConfig((golden.path() / "model").string()), 7, DType::kF32);
    for (const LayerWeights& layer : model.weights.layers) {
      EXPECT_EQ(layer.q.rows, model.spec().attention.q_width());
      EXPECT_EQ(layer.q_bias.empty(), !model.spec().attention.qkv_bias);
      EXPECT_EQ(layer.o_bias.empty(), !model.spec().attention.output_bias);
    }
  }
}

TEST(OpenModelTest, GenerationConfigAddsEndTokens) {
  EditedModel model("mixtral-base");
  model.config["eos_token_id"] = 2;
  const fs::path& path = model.Write();
  EXPECT_EQ(ReadModelConfig(path.string()).spec.eos_tokens, (std::vector<int32_t>{2}));
  model.folder.Write("generation_config.json", R"({"eos_token_id": [5, 2, 9], "temperature": 0.6})");
  EXPECT_EQ(ReadModelConfig(path.string()).spec.eos_tokens, (std::vector<int32_t>{2, 5, 9}));
  // A token the model can never give is no harm; something that is no token is.
  model.folder.Write("generation_config.json", R"({"eos_token_id": 1000000})");
  EXPECT_EQ(ReadModelConfig(path.string()).spec.eos_tokens, (std::vector<int32_t>{2}));
  model.folder.Write("generation_config.json", R"({"eos_token_id": "</s>"})");
  const std::string error = ErrorOf([&] { ReadModelConfig(path.string()); });
  EXPECT_NE(error.find("generation_config.json: eos_token_id: expected integers from 0 to "),
            std::string::npos)
      << error;
}

TEST(OpenModelTest, TensorsNobodyUsesAreNamed) {
  const ModelConfig config =
      ReadModelConfig(std::string(FIDDLER_SOURCE_DIR) + "/tests/oracle/golden/qwen3-base/model");
  EXPECT_TRUE(OpenModel(config).unused_tensors.empty());
  ModelConfig cut = config;  // as if num_hidden_layers said one less
  cut.spec.layers.pop_back();
  const std::string last = TensorName("model.layers.{layer}.", cut.spec.num_layers());
  const std::vector<std::string> unused = OpenModel(cut).unused_tensors;
  EXPECT_FALSE(unused.empty());
  for (const std::string& name : unused) EXPECT_TRUE(name.starts_with(last)) << name;
}

}  // namespace
}  // namespace fiddler
