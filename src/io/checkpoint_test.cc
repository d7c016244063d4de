#include "io/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "io/test_files.h"

namespace fiddler {
namespace {

struct NamedTensor {
  std::string name;
  std::string dtype = "F32";
  int rows = 2;  // [rows, 3]
};

// A safetensors file with these tensors, filled with `fill`.
std::string FileWith(const std::vector<NamedTensor>& tensors, char fill = 'x') {
  std::string header;
  size_t end = 0;
  for (const auto& [name, dtype, rows] : tensors) {
    const size_t begin = end;
    end += static_cast<size_t>(rows) * 3 * DTypeBytes(DTypeFromName(dtype).value());
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{},3],"data_offsets":[{},{}]}})",
                          header.empty() ? "" : ",", name, dtype, rows, begin, end);
  }
  return SafetensorsBytes("{" + header + "}", std::string(end, fill));
}

std::string OpenError(const TempFolder& folder) {
  std::string message = ErrorOf([&] { Checkpoint::Open(folder.path()); });
  // The folder's name is random: "DIR" stands for it.
  for (size_t at; (at = message.find(folder.path().string())) != std::string::npos;) {
    message.replace(at, folder.path().string().size(), "DIR");
  }
  return message;
}

TEST(Checkpoint, ReadsOneFile) {
  const TempFolder folder;
  folder.Write("model.safetensors", FileWith({{"a"}, {"b", "BF16", 4}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  EXPECT_EQ(checkpoint.files().size(), 1u);
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensors()[1].view->name, "b");
  EXPECT_EQ(checkpoint.tensors()[1].file, checkpoint.files().data());
  EXPECT_EQ(checkpoint.total_bytes(), 24u + 24u);
  EXPECT_TRUE(checkpoint.Has("a"));
  EXPECT_FALSE(checkpoint.Has("c"));
  EXPECT_EQ(checkpoint.Find("c"), nullptr);
}

TEST(Checkpoint, ReadsTheOnlyFileWhateverItsName) {
  const TempFolder folder;
  folder.Write("weights.safetensors", FileWith({{"a"}}));
  folder.Write("config.json", "{}");
  EXPECT_TRUE(Checkpoint::Open(folder.path()).Has("a"));
}

TEST(Checkpoint, ReadsTheShardsOfAnIndex) {
  const TempFolder folder;
  folder.Write("1.safetensors", FileWith({{"a"}, {"hidden"}}));
  folder.Write("2.safetensors", FileWith({{"b"}}));
  folder.Write("3.safetensors", "not even a safetensors file, and nobody asks for it");
  folder.Write("model.safetensors.index.json",
               R"({"metadata":{"total_size":1},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  EXPECT_EQ(checkpoint.files().size(), 2u);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_TRUE(checkpoint.Has("a"));
  EXPECT_TRUE(checkpoint.Has("b"));
  EXPECT_FALSE(checkpoint.Has("hidden"));  // only what the index lists counts
}

TEST(Checkpoint, OneFileGoesBeforeAnIndex) {
  const TempFolder folder;
  folder.Write("model.safetensors", FileWith({{"one"}}));
  folder.Write("model.safetensors.index.json", "broken");
  EXPECT_TRUE(Checkpoint::Open(folder.path()).Has("one"));
}

TEST(Checkpoint, StaysValidWhenMoved) {
  const TempFolder folder;
  folder.Write("model.safetensors", FileWith({{"a"}}));
  Checkpoint checkpoint = Checkpoint::Open(folder.path());
  Checkpoint moved = std::move(checkpoint);
  EXPECT_EQ(moved.Require("a", {2, 3}).name, "a");
  EXPECT_EQ(moved.tensors()[0].file, moved.files().data());
}

TEST(Checkpoint, RequireSaysWhatIsWrong) {
  const TempFolder folder;
  const std::string path =
      folder.Write("model.safetensors", FileWith({{"a"}, {"i", "I32"}, {"h", "F16"}})).string();
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  EXPECT_EQ(checkpoint.Require("a", {2, 3}).dtype, DType::kF32);
  EXPECT_EQ(checkpoint.Require("h", {2, 3}).dtype, DType::kF16);
  EXPECT_EQ(ErrorOf([&] {
              checkpoint.Require("a", {3, 2});
            }),
            path + ": tensor a: expected shape [3, 2], got [2, 3]");
  EXPECT_EQ(ErrorOf([&] {
              checkpoint.Require("i", {2, 3});
            }),
            path + ": tensor i: expected F32, F16 or BF16, got I32");
  EXPECT_EQ(checkpoint.Find("i")->dtype, DType::kI32);
  EXPECT_EQ(ErrorOf([&] { checkpoint.Require("gone", {2}); }),
            folder.path().string() + ": expected a tensor gone of shape [2], got none of that name among 3");
}

TEST(Checkpoint, ReadsAnyPartOfATensorAlsoAfterItsRelease) {
  const TempFolder folder;
  folder.Write("model.safetensors", FileWith({{"a", "F32", 10'000}, {"b", "F32", 1}}, 'v'));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  const TensorInfo tensor = checkpoint.Require("a", {10'000, 3});
  for (int round = 0; round < 2; ++round) {
    std::vector<std::byte> bytes(50'000);
    checkpoint.Prefetch(tensor, 60'001, bytes.size());
    checkpoint.Read(tensor, 60'001, bytes);
    for (const std::byte byte : bytes) ASSERT_EQ(byte, std::byte{'v'});
    checkpoint.Release(tensor, 60'001, bytes.size());
  }
}

TEST(Checkpoint, ReadOfAFileThatShrankIsAnError) {
  const TempFolder folder;
  const std::filesystem::path path = folder.Write("model.safetensors", FileWith({{"a", "F32", 10'000}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  const TensorInfo tensor = checkpoint.Require("a", {10'000, 3});
  std::filesystem::resize_file(path, 1'000);
  std::vector<std::byte> bytes(120'000);
  EXPECT_TRUE(ErrorOf([&] {
                checkpoint.Read(tensor, 0, bytes);
              }).starts_with(path.string() + ": cannot read bytes "));
}

TEST(Checkpoint, RefusesDirectoriesWithoutSafetensors) {
  const TempFolder folder;
  EXPECT_EQ(OpenError(folder), "DIR: expected weights in *.safetensors files, got none");
  folder.Write("pytorch_model.bin", "");
  EXPECT_EQ(OpenError(folder),
            "DIR: expected weights in *.safetensors files, the only format read from a directory, "
            "got pytorch_model.bin");
  folder.Write("a.safetensors", FileWith({{"a"}}));
  folder.Write("b.safetensors", FileWith({{"b"}}));
  EXPECT_EQ(OpenError(folder),
            "DIR: expected model.safetensors or model.safetensors.index.json to say which weights count, "
            "got 2 *.safetensors files and neither");
  const std::filesystem::path missing = folder.path() / "missing";
  EXPECT_EQ(ErrorOf([&] { Checkpoint::Open(missing); }),
            missing.string() + ": expected a model directory, got: No such file or directory");
}

// An index that goes with 1.safetensors {a} and 2.safetensors {b}.
std::string IndexError(std::string_view index) {
  const TempFolder folder;
  folder.Write("1.safetensors", FileWith({{"a"}}));
  folder.Write("2.safetensors", FileWith({{"b"}}));
  folder.Write("model.safetensors.index.json", index);
  return OpenError(folder);
}

TEST(Checkpoint, RefusesABrokenIndex) {
  const std::string where = "DIR/model.safetensors.index.json: ";
  EXPECT_EQ(IndexError("{"), where + "expected JSON, got a syntax error at byte 2");
  for (const char* index : {"{}", "[]", "3", R"({"weight_map":["a"]})"}) {
    EXPECT_EQ(IndexError(index), where + "expected a field weight_map that maps tensors to files, got none");
  }
  EXPECT_EQ(IndexError(R"({"weight_map":{"a":"1.safetensors","a":"2.safetensors"}})"),
            where + R"(expected every name once, got "a" twice)");
}

TEST(Checkpoint, RefusesFilesOutsideTheDirectory) {
  for (const char* file : {R"("../1.safetensors")", R"("/etc/passwd")", R"("sub/1.safetensors")", R"("a\\b")",
                           R"("..")", R"(".")", R"("")", "7", "null"}) {
    EXPECT_EQ(
        IndexError(fmt::format(R"({{"weight_map":{{"a":{}}}}})", file)),
        fmt::format("DIR/model.safetensors.index.json: tensor \"a\": expected the name of a file in the same "
                    "directory, got {}",
                    file));
  }
}

TEST(Checkpoint, RefusesAnIndexThatIsNotTrue) {
  const std::string where = "DIR/model.safetensors.index.json: ";
  EXPECT_EQ(IndexError(R"({"weight_map":{"a":"1.safetensors","c":"3.safetensors"}})"),
            where + R"(field weight_map: expected files that exist, got "3.safetensors": no such file)");
  EXPECT_EQ(IndexError(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", std::string(300, 'x'))),
            fmt::format("{}field weight_map: expected files that exist, got \"{}...: File name too long",
                        where, std::string(79, 'x')));
  EXPECT_EQ(IndexError(R"({"weight_map":{"a":"2.safetensors"}})"),
            where + R"(tensor "a": expected in file "2.safetensors", got a file without it)");
}

TEST(Checkpoint, RefusesATensorInTwoFiles) {
  const TempFolder folder;
  folder.Write("1.safetensors", FileWith({{"a"}}));
  folder.Write("2.safetensors", FileWith({{"a"}, {"b"}}));
  folder.Write("model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})");
  EXPECT_EQ(OpenError(folder),
            R"(DIR/2.safetensors: tensor "a": expected in one file only, got it in DIR/1.safetensors too)");
}

}  // namespace
}  // namespace fiddler
