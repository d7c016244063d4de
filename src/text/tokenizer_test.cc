#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "text/stream_decoder.h"

namespace fiddler {
namespace {

using Ids = std::vector<int32_t>;

Json Added(int id, const char* content, bool special, bool normalized = false) {
  return {{"id", id},
          {"content", content},
          {"special", special},
          {"normalized", normalized},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false}};
}

// Letters a, b, é as byte tokens, "▁" for a space; <s> in front.
Json SmallFile() {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {Added(0, "<s>", true), Added(7, "[tool]", false)}},
          {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair", Json::array()},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
              {{"type", "ByteFallback"}}}}}},
          {"model",
           {{"type", "BPE"},
            {"byte_fallback", true},
            {"vocab", {{"<s>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}, {"▁", 4}, {"<0xC3>", 5}, {"<0xA9>", 6}}},
            {"merges", {"a b"}}}}};
}

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "test");
  EXPECT_EQ(tokenizer.Encode("ab é", true), (Ids{0, 3, 4, 5, 6}));
  EXPECT_EQ(tokenizer.Encode("a<s>b[tool]", false), (Ids{1, 0, 2, 7}));
  EXPECT_EQ(tokenizer.Encode("", true), (Ids{0}));
  EXPECT_EQ(tokenizer.Encode("", false), Ids{});
  EXPECT_EQ(tokenizer.Decode(Ids{0, 3, 4, 5, 6, 7}, true), "ab é[tool]");
  EXPECT_EQ(tokenizer.Decode(Ids{0, 3}, false), "<s>ab");
}

TEST(Tokenizer, IdsThatNameNothingAreSkipped) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "test");
  EXPECT_EQ(tokenizer.Decode(Ids{1, -1, 8, 2147483647, -2147483647 - 1, 2}, true), "ab");
  EXPECT_EQ(tokenizer.IdToToken(-1), "");
  EXPECT_EQ(tokenizer.IdToToken(8), "");
  EXPECT_FALSE(tokenizer.IsSpecial(8));
}

TEST(Tokenizer, LooksUpTokens) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "test");
  EXPECT_EQ(tokenizer.vocab_size(), 8);
  EXPECT_EQ(tokenizer.TokenToId("ab"), 3);
  EXPECT_EQ(tokenizer.TokenToId("[tool]"), 7);
  EXPECT_EQ(tokenizer.TokenToId("no"), std::nullopt);
  EXPECT_EQ(tokenizer.IdToToken(4), "▁");
  EXPECT_EQ(tokenizer.IdToToken(7), "[tool]");
  EXPECT_TRUE(tokenizer.IsSpecial(0));
  EXPECT_FALSE(tokenizer.IsSpecial(7));
}

TEST(Tokenizer, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  Json file = SmallFile();
  file["model"]["vocab"]["\uFFFD"] = 7;
  file["added_tokens"][1]["id"] = 8;
  const Tokenizer tokenizer = Tokenizer::FromJson(file, "test");
  EXPECT_EQ(tokenizer.Encode("a\xFF"
                             "b",
                             false),
            (Ids{1, 7, 2}));
  EXPECT_EQ(tokenizer.Encode("\xE2\x82", false), (Ids{7})) << "one for a cut-off character";
  EXPECT_EQ(tokenizer.Encode("\xC3\xA9\xC3", false), (Ids{5, 6, 7}));
}

TEST(Tokenizer, ASpecialTokenThatTheNormalizerRewritesIsNotSkipped) {
  Json file = SmallFile();
  file["added_tokens"].push_back(Added(8, "a b", true, /*normalized=*/true));
  const Tokenizer tokenizer = Tokenizer::FromJson(file, "test");
  EXPECT_EQ(tokenizer.Encode("a b", false), (Ids{8}));
  EXPECT_EQ(tokenizer.IdToToken(8), "a▁b");
  EXPECT_EQ(tokenizer.Decode(Ids{8}, true), "a b");
  EXPECT_TRUE(tokenizer.IsSpecial(8));
}

TEST(Tokenizer, MaySurviveAMove) {
  Tokenizer first = Tokenizer::FromJson(SmallFile(), "test");
  const Tokenizer second = std::move(first);
  EXPECT_EQ(second.Decode(second.Encode("ab é[tool]", true), true), "ab é[tool]");
}

TEST(Tokenizer, ManyThreadsMayUseOne) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "test");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int& count : wrong) {
    threads.emplace_back([&tokenizer, &count] {
      for (int i = 0; i < 200; ++i) count += tokenizer.Encode("ab é<s>", false) != Ids{3, 4, 5, 6, 0};
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

std::string ErrorOf(const Json& file) {
  try {
    Tokenizer::FromJson(file, "tokenizer.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Tokenizer, ErrorsNameFileAndField) {
  const auto with = [](const char* name, Json value) {
    Json file = SmallFile();
    file[name] = std::move(value);
    return ErrorOf(file);
  };
  ASSERT_EQ(ErrorOf(SmallFile()), "none");
  EXPECT_EQ(with("version", "2.0"), R"(tokenizer.json: version: expected "1.0", got "2.0")");
  EXPECT_EQ(with("model", nullptr), R"(tokenizer.json: expected a member "model", got none)");
  EXPECT_EQ(with("vocab", 1), R"(tokenizer.json: expected only options this build knows, got "vocab")");
  EXPECT_EQ(with("normalizer", 1), "tokenizer.json: normalizer: expected an object, got 1");
  EXPECT_EQ(ErrorOf(Json::array()), "tokenizer.json: expected an object, got an array");
  EXPECT_EQ(with("truncation", {{"max_length", 2}}), "none") << "not applied";
}

TEST(Tokenizer, ReadsFiles) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "tokenizer_test.json";
  std::ofstream(path) << SmallFile().dump();
  EXPECT_EQ(Tokenizer::FromFile(path).vocab_size(), 8);
  std::ofstream(path) << R"({"model": )";
  EXPECT_THROW(Tokenizer::FromFile(path), Error);
  std::filesystem::remove(path);
  EXPECT_THROW(Tokenizer::FromFile(path), Error);
}

TEST(StreamDecoder, ServesOneSequenceAfterTheOther) {
  const Tokenizer tokenizer = Tokenizer::FromJson(SmallFile(), "test");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.Push(0), "");
  EXPECT_EQ(decoder.Push(3), "ab");
  EXPECT_EQ(decoder.Push(5), "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Push(6), "");
  EXPECT_EQ(decoder.Push(1), "\uFFFDa") << "the byte before Flush() does not come back";
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(StreamDecoder(tokenizer, /*skip_special_tokens=*/false).Push(0), "<s>");
}

}  // namespace
}  // namespace fiddler
