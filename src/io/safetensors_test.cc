#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "io/test_files.h"

namespace fiddler {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

SafetensorsHeader Parse(std::string_view header, size_t data_bytes) {
  return ParseSafetensorsHeader(Bytes(SafetensorsBytes(header, std::string(data_bytes, '\0'))), "f");
}

// What is wrong with a file of that header and so many bytes of data.
std::string HeaderError(std::string_view header, size_t data_bytes = 0) {
  return ErrorOf([&] { Parse(header, data_bytes); });
}

// The same with the one tensor "t".
std::string TensorError(std::string_view fields, size_t data_bytes = 0) {
  return HeaderError(fmt::format(R"({{"t":{}}})", fields), data_bytes);
}

std::string FileError(std::string_view file) {
  return ErrorOf([&] { ParseSafetensorsHeader(Bytes(file), "f"); });
}

// Two tensors, metadata, and a name that needs escapes. 4 * 2 + 2 * 3 * 2 = 20 bytes of data.
constexpr std::string_view kValidHeader =
    R"({"__metadata__":{"format":"pt"},)"
    R"("b":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},)"
    R"("a\u0022":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})";

TEST(SafetensorsHeader, ReadsTensorsInFileOrder) {
  const SafetensorsHeader header = Parse(kValidHeader, 20);
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.tensors[0].name, "b");
  EXPECT_EQ(header.tensors[0].dtype, DType::kF16);
  EXPECT_EQ(header.tensors[0].shape, Shape({4}));
  EXPECT_EQ(header.tensors[1].name, "a\"");
  EXPECT_EQ(header.tensors[1].shape, Shape({2, 3}));
  EXPECT_EQ(header.tensors[1].begin, 8u);
  EXPECT_EQ(header.tensors[1].end, 20u);
  EXPECT_EQ(header.data_begin, 8 + kValidHeader.size());
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(SafetensorsHeader, ReadsEveryType) {
  for (const auto& [name, bytes] : {std::pair{"BOOL", 1},
                                    {"U8", 1},
                                    {"I8", 1},
                                    {"F8_E4M3", 1},
                                    {"F8_E5M2", 1},
                                    {"I16", 2},
                                    {"U16", 2},
                                    {"F16", 2},
                                    {"BF16", 2},
                                    {"I32", 4},
                                    {"U32", 4},
                                    {"F32", 4},
                                    {"F64", 8},
                                    {"I64", 8},
                                    {"U64", 8}}) {
    const std::string header =
        fmt::format(R"({{"t":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})", name, 3 * bytes);
    EXPECT_EQ(DTypeName(Parse(header, 3 * static_cast<size_t>(bytes)).tensors.at(0).dtype), name);
  }
}

TEST(SafetensorsHeader, AcceptsEmptyAndScalarTensors) {
  EXPECT_TRUE(Parse("{}", 0).tensors.empty());
  EXPECT_TRUE(Parse("{}   \n", 0).tensors.empty());  // writers pad with spaces
  EXPECT_EQ(Parse(R"({"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4).tensors.at(0).shape,
            Shape());
  const SafetensorsHeader header = Parse(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                         R"("b":{"dtype":"U8","shape":[0,7],"data_offsets":[0,0]},)"
                                         R"("c":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
                                         1);
  ASSERT_EQ(header.tensors.size(), 3u);
  // An empty tensor goes before the one that starts at the same byte, whatever their names.
  EXPECT_EQ(header.tensors[0].name, "b");
  EXPECT_EQ(header.tensors[2].name, "c");
}

TEST(SafetensorsHeader, IgnoresFieldsItDoesNotKnow) {
  EXPECT_EQ(Parse(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1]}}})", 1).tensors.size(),
            1u);
}

TEST(SafetensorsHeader, RefusesAFileCutAnywhere) {
  const std::string file = SafetensorsBytes(kValidHeader, std::string(20, 'x'));
  for (size_t length = 0; length < file.size(); ++length) {
    const std::string message = FileError(file.substr(0, length));
    EXPECT_TRUE(message.starts_with("f: ")) << message;
    EXPECT_NE(message.find("expected"), std::string::npos) << message;
    EXPECT_NE(message.find("got"), std::string::npos) << message;
  }
  ParseSafetensorsHeader(Bytes(file), "f");
}

TEST(SafetensorsHeader, RefusesAbsurdHeaderLengths) {
  const auto with_length = [](uint64_t length) { return LittleEndian64(length) + "{}"; };
  EXPECT_EQ(FileError("1234567"), "f: expected at least 8 bytes (a safetensors header length), got 7");
  EXPECT_EQ(FileError(with_length(0)),
            "f: expected a safetensors header that starts with '{', got an empty one");
  EXPECT_EQ(FileError(with_length(3)),
            "f: expected a header of 3 bytes, got a file that ends after 2 of them");
  EXPECT_EQ(FileError(with_length(100'000'000)),
            "f: expected a header of 100000000 bytes, got a file that ends after 2 of them");
  EXPECT_EQ(FileError(with_length(100'000'001)),
            "f: expected a safetensors header of at most 100000000 bytes, got 100000001");
  EXPECT_EQ(FileError(with_length(uint64_t{1} << 40)),
            "f: expected a safetensors header of at most 100000000 bytes, got 1099511627776");
  EXPECT_EQ(FileError(with_length(~uint64_t{0})),
            "f: expected a safetensors header of at most 100000000 bytes, got 18446744073709551615");
  EXPECT_EQ(FileError(with_length(~uint64_t{0} - 7)),  // + 8 overflows to 0
            "f: expected a safetensors header of at most 100000000 bytes, got 18446744073709551608");
}

TEST(SafetensorsHeader, RefusesAHeaderThatIsNoJsonObject) {
  EXPECT_EQ(HeaderError("[]"), R"(f: expected a safetensors header that starts with '{', got "[")");
  EXPECT_EQ(HeaderError(" {}"), R"(f: expected a safetensors header that starts with '{', got " ")");
  EXPECT_EQ(HeaderError("\xff{}"), R"(f: expected a safetensors header that starts with '{', got "\ufffd")");
  EXPECT_EQ(HeaderError("{} {}"), "f: expected JSON, got a syntax error at byte 4");
  EXPECT_EQ(HeaderError("{\"\xc3\x28\":{}}"), "f: expected JSON, got a syntax error at byte 4");
  EXPECT_EQ(HeaderError(std::string("{}\0\0", 4)), "f: expected JSON, got a NUL at byte 3");
  EXPECT_EQ(HeaderError("{\"a\":" + std::string(100'000, '[')),
            "f: expected JSON nested at most 64 deep, got more");
}

TEST(SafetensorsHeader, RefusesDuplicateNames) {
  constexpr std::string_view kTensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_EQ(HeaderError(fmt::format(R"({{"t":{},"t":{}}})", kTensor, kTensor), 1),
            R"(f: expected every name once, got "t" twice)");
  EXPECT_EQ(TensorError(R"({"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})", 1),
            R"(f: expected every name once, got "dtype" twice)");
}

TEST(SafetensorsHeader, RefusesMetadataThatIsNoMapOfStrings) {
  EXPECT_EQ(HeaderError(R"({"__metadata__":{"a":1}})"),
            R"(f: field __metadata__: expected an object of strings, got {"a":1})");
  EXPECT_EQ(HeaderError(R"({"__metadata__":["a"]})"),
            R"(f: field __metadata__: expected an object of strings, got ["a"])");
}

TEST(SafetensorsHeader, RefusesATensorWithoutAField) {
  EXPECT_EQ(TensorError("17"), R"(f: tensor "t": expected an object, got 17)");
  EXPECT_EQ(TensorError(R"({"shape":[1],"data_offsets":[0,1]})", 1),
            R"(f: tensor "t": expected a field dtype, got none)");
  EXPECT_EQ(TensorError(R"({"dtype":"U8","data_offsets":[0,1]})", 1),
            R"(f: tensor "t": expected a field shape, got none)");
  EXPECT_EQ(TensorError(R"({"dtype":"U8","shape":[1]})", 1),
            R"(f: tensor "t": expected a field data_offsets, got none)");
}

TEST(SafetensorsHeader, RefusesUnknownTypes) {
  EXPECT_EQ(TensorError(R"({"dtype":"Q4","shape":[1],"data_offsets":[0,1]})", 1),
            R"(f: tensor "t": field dtype: expected a known type such as BF16, got "Q4")");
  EXPECT_EQ(TensorError(R"({"dtype":7,"shape":[1],"data_offsets":[0,1]})", 1),
            R"(f: tensor "t": field dtype: expected a known type such as BF16, got 7)");
}

TEST(SafetensorsHeader, RefusesShapesThatAreNoCounts) {
  for (const char* shape : {"[-1]", "[-0]", "[1.0]", "[1e2]", "[\"1\"]", "[null]", "[[1]]", "1", "null", "{}",
                            "[18446744073709551616]"}) {  // 2^64
    const std::string message =
        TensorError(fmt::format(R"({{"dtype":"U8","shape":{},"data_offsets":[0,1]}})", shape), 1);
    EXPECT_TRUE(message.starts_with(
        R"(f: tensor "t": field shape: expected an array of non-negative integers, got )"))
        << message;
  }
}

TEST(SafetensorsHeader, RefusesShapesWhoseSizeOverflows) {
  EXPECT_EQ(TensorError(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
            R"(f: tensor "t": field shape: expected less than 2^64 bytes, got U8 [4294967296, 4294967296])");
  EXPECT_EQ(
      TensorError(R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})"),
      R"(f: tensor "t": field shape: expected less than 2^64 bytes, got U8 [4294967296, 4294967296, 0])");
  EXPECT_EQ(TensorError(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})"),
            R"(f: tensor "t": field shape: expected less than 2^64 bytes, got F64 [2305843009213693952])");
  EXPECT_EQ(TensorError(R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})", 1),
            R"(f: tensor "t": field shape: expected dimensions below 2^63, got [9223372036854775808])");
}

TEST(SafetensorsHeader, RefusesBadOffsets) {
  for (const char* offsets : {"[1,0]", "[0]", "[0,1,2]", "[]"}) {
    EXPECT_EQ(
        TensorError(fmt::format(R"({{"dtype":"U8","shape":[1],"data_offsets":{}}})", offsets), 1),
        fmt::format(R"(f: tensor "t": field data_offsets: expected [begin, end] with begin <= end, got {})",
                    offsets));
  }
  EXPECT_EQ(TensorError(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", 1),
            R"(f: tensor "t": field data_offsets: expected an array of non-negative integers, got [-1,0])");
  EXPECT_EQ(TensorError(R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})", 2),
            R"(f: tensor "t": field data_offsets: expected at most 2, the bytes of data in the file, got 3)");
  EXPECT_EQ(TensorError(R"({"dtype":"BF16","shape":[2,3],"data_offsets":[0,11]})", 11),
            R"(f: tensor "t": expected 12 bytes for BF16 [2, 3], got 11)");
}

TEST(SafetensorsHeader, RefusesHolesOverlapsAndLeftovers) {
  const auto two_tensors = [](int first_end, int second_begin) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},8]}}}})",
                       first_end, first_end, 8 - second_begin, second_begin);
  };
  EXPECT_EQ(Parse(two_tensors(4, 4), 8).tensors.size(), 2u);
  constexpr std::string_view kWhere =
      R"(f: tensor "b": field data_offsets: expected to begin at 4, where the one before ends, got )";
  EXPECT_EQ(HeaderError(two_tensors(4, 5), 8), std::string(kWhere) + "5 (a hole)");
  EXPECT_EQ(HeaderError(two_tensors(4, 3), 8), std::string(kWhere) + "3 (an overlap)");
  EXPECT_EQ(
      TensorError(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})", 2),
      R"(f: tensor "t": field data_offsets: expected to begin at 0, where the one before ends, got 1 (a hole))");
  EXPECT_EQ(HeaderError(two_tensors(4, 4), 9),
            R"(f: expected 8 bytes of data, the end of the last tensor "b", got 9)");
  EXPECT_EQ(HeaderError("{}", 1), "f: expected 0 bytes of data, the end of the last tensor, got 1");
}

TEST(SafetensorsHeader, ErrorsShowHostileNamesAsOneLine) {
  EXPECT_EQ(HeaderError(R"({"a\nb\u001b[2J":1})"), R"(f: tensor "a\nb\u001b[2J": expected an object, got 1)");
}

TEST(SafetensorsFile, ViewsPointIntoTheMapping) {
  const TempFolder folder;
  const std::string data = "01234567abcdefghijkl";
  std::string header(kValidHeader);
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const SafetensorsFile file = SafetensorsFile::Open(folder.Write("f", SafetensorsBytes(header, data)));
  ASSERT_EQ(file.tensors().size(), 2u);
  const TensorView* tensor = file.Find("a\"");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->dtype, DType::kBF16);
  EXPECT_EQ(tensor->shape, Shape({2, 3}));
  EXPECT_TRUE(file.file().Contains(tensor->bytes));
  EXPECT_EQ(std::memcmp(tensor->bytes.data(), "abcdefghijkl", 12), 0);
  EXPECT_EQ(tensor->bytes.size(), 12u);
  EXPECT_EQ(file.Find("a"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsFile, MisalignedTensorsAreThereToo) {
  const TempFolder folder;
  std::string header(kValidHeader);
  header.resize((header.size() + 7) / 8 * 8 + 1, ' ');  // the data begins at an odd address
  const std::string data = "01234567abcdefghijkl";
  const SafetensorsFile opened = SafetensorsFile::Open(folder.Write("f", SafetensorsBytes(header, data)));
  std::string seen;
  for (const TensorView& tensor : opened.tensors()) {
    seen.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  EXPECT_EQ(seen, data);
}

TEST(SafetensorsFile, LooksUpAfterAMove) {
  const TempFolder folder;
  SafetensorsFile file = SafetensorsFile::Open(
      folder.Write("f", SafetensorsBytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x")));
  const SafetensorsFile moved = std::move(file);
  ASSERT_NE(moved.Find("t"), nullptr);
  EXPECT_EQ(moved.Find("t")->bytes[0], std::byte{'x'});
}

TEST(SafetensorsFile, ErrorsNameTheFile) {
  const TempFolder folder;
  const std::filesystem::path path = folder.Write("model.safetensors", "");
  EXPECT_EQ(ErrorOf([&] { SafetensorsFile::Open(path); }),
            path.string() + ": expected at least 8 bytes (a safetensors header length), got 0");
}

}  // namespace
}  // namespace fiddler
