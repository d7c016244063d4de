// The tokenizer against Hugging Face `tokenizers`: the files of tests/oracle/tokenizer, made by
// tests/oracle/make_tokenizer_golden.py, which says what each row means.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

namespace fiddler {
namespace {

const std::filesystem::path kRepository = FIDDLER_SOURCE_DIR;
const std::filesystem::path kOracle = kRepository / "tests/oracle/tokenizer";

Json ReadJson(const std::filesystem::path& path) {
  return ParseJson(ReadFile(path, size_t{16} << 20), path.string());
}

template <typename T>
T ValueOr(const Json& value, const T& usual) {
  return value.is_null() ? usual : value.get<T>();
}

std::string Repeat(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

std::string Fnv1a(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const int32_t id : ids) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001B3u;
  return fmt::format("{:016x}", hash);
}

std::string DecodeAsStream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                           bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Flush();
}

class TokenizerGolden : public testing::TestWithParam<const char*> {
 protected:
  Tokenizer tokenizer_ =
      Tokenizer::FromFile(GetParam() == std::string_view("demo") ? kRepository / "models/demo/tokenizer.json"
                                                                 : kOracle / GetParam() / "tokenizer.json");
  Json cases_ = ReadJson(kOracle / GetParam() / "cases.json");
};

TEST_P(TokenizerGolden, EncodesAndDecodesLikeHuggingFace) {
  const Json texts = ReadJson(kOracle / "texts.json");
  const Json& rows = cases_["encode"];
  ASSERT_EQ(rows.size(), texts.size());
  ASSERT_GT(rows.size(), 400u);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string text = texts[i];
    SCOPED_TRACE(texts[i].dump(-1, ' ', /*ensure_ascii=*/true));
    const std::vector<int32_t> ids = rows[i][0];
    const std::vector<int32_t> plain = ValueOr(rows[i][1], ids);
    const std::string decoded = ValueOr(rows[i][2], text);
    const std::string without_special = ValueOr(rows[i][3], text);
    EXPECT_EQ(tokenizer_.Encode(text, /*add_special_tokens=*/true), ids);
    EXPECT_EQ(tokenizer_.Encode(text, /*add_special_tokens=*/false), plain);
    EXPECT_EQ(tokenizer_.Decode(ids, /*skip_special_tokens=*/false), decoded);
    EXPECT_EQ(tokenizer_.Decode(ids, /*skip_special_tokens=*/true), without_special);
    EXPECT_EQ(DecodeAsStream(tokenizer_, ids, false), decoded);
    EXPECT_EQ(DecodeAsStream(tokenizer_, ids, true), without_special);
  }
}

TEST_P(TokenizerGolden, DecodesAnyIdsLikeHuggingFace) {
  ASSERT_FALSE(cases_["decode"].empty());
  for (const Json& row : cases_["decode"]) {
    SCOPED_TRACE(row.dump());
    const std::vector<int32_t> ids = row[0];
    EXPECT_EQ(tokenizer_.Decode(ids, false), row[1]);
    EXPECT_EQ(tokenizer_.Decode(ids, true), row[2]);
    EXPECT_EQ(DecodeAsStream(tokenizer_, ids, false), row[1]);
    EXPECT_EQ(DecodeAsStream(tokenizer_, ids, true), row[2]);
  }
}

// 100,000 bytes of one letter are one word: merging must not be quadratic, which would take minutes. The
// bound is wide because the tests also run under sanitizers on busy machines; it takes some 30 ms.
TEST_P(TokenizerGolden, EncodesLongRunsLikeHuggingFaceAndFast) {
  constexpr auto kBound = std::chrono::seconds(10);
  ASSERT_FALSE(cases_["long"].empty());
  for (const auto& [name, row] : cases_["long"].items()) {
    SCOPED_TRACE(name);
    const std::string text = Repeat(row[0].get<std::string>(), row[1].get<size_t>());
    const auto start = std::chrono::steady_clock::now();
    const std::vector<int32_t> ids = tokenizer_.Encode(text, true);
    EXPECT_LT(std::chrono::steady_clock::now() - start, kBound);
    EXPECT_EQ(text.size(), row[1]);
    EXPECT_EQ(ids.size(), row[2]);
    EXPECT_EQ(Fnv1a(ids), row[3]);
  }
}

std::string NameOf(const testing::TestParamInfo<const char*>& kind) {
  std::string name = kind.param;
  std::erase(name, '-');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGolden,
                         testing::Values("qwen2", "olmoe", "llama", "llama-metaspace", "llama3", "deepseek",
                                         "unknown", "demo"),
                         NameOf);

}  // namespace
}  // namespace fiddler
