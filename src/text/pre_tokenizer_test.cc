// What single pre-tokenizers do to text is compared with Hugging Face in components_golden_test.cc.
#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fiddler::text {
namespace {

// The words joined by "|".
std::string Apply(const Json& config, std::string text, bool starts_input = true) {
  const PreTokenizer pre_tokenizer(JsonField(config, "test", "pre_tokenizer"));
  const Words words = pre_tokenizer.Apply({.text = std::move(text), .starts_input = starts_input});
  std::string joined;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) joined += '|';
    joined += words[i];
  }
  return joined;
}

Json Sequence(std::initializer_list<Json> steps) {
  return {{"type", "Sequence"}, {"pretokenizers", Json(steps)}};
}

Json Metaspace(const char* scheme) {
  return {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", scheme}, {"split", true}};
}

const Json kSplitAtSpace = {
    {"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Removed"}, {"invert", false}};

TEST(PreTokenizer, NoneMakesOneWord) {
  const PreTokenizer none(std::nullopt);
  EXPECT_EQ(none.Apply({.text = "a b"}).size(), 1u);
  EXPECT_EQ(none.Apply({.text = ""}).size(), 0u);
}

TEST(PreTokenizer, MetaspacePrependsToTheStartOfTheInputOrToEveryWord) {
  EXPECT_EQ(Apply(Metaspace("first"), "a  b"), "_a|_|_b");
  EXPECT_EQ(Apply(Metaspace("first"), "a b", /*starts_input=*/false), "a|_b");
  EXPECT_EQ(Apply(Metaspace("always"), "a b", /*starts_input=*/false), "_a|_b");
  EXPECT_EQ(Apply(Metaspace("never"), "a b"), "a|_b");
  EXPECT_EQ(Apply(Metaspace("always"), " a"), "_a") << "there is a space already";
  EXPECT_EQ(Apply(Metaspace("always"), "_a"), "_a");
}

TEST(PreTokenizer, OnlyAWordWithTheFirstCharacterStartsTheInput) {
  EXPECT_EQ(Apply(Sequence({kSplitAtSpace, Metaspace("first")}), "a b"), "_a|b");
  EXPECT_EQ(Apply(Sequence({kSplitAtSpace, Metaspace("first")}), " a b"), "a|b")
      << "the first character is gone";
  EXPECT_EQ(Apply(Sequence({kSplitAtSpace, Metaspace("always")}), " a b"), "_a|_b");
}

TEST(PreTokenizer, ByteLevelPrefixesEveryWordOfAnEarlierStep) {
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}};
  EXPECT_EQ(Apply(Sequence({kSplitAtSpace, byte_level}), "a é"), "Ġa|ĠÃ©");
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnow) {
  for (const char* config :
       {R"({"type": "BertPreTokenizer"})", R"({"type": "ByteLevel"})", R"({"type": "Digits"})",
        R"({"type": "Whitespace", "x": 1})",
        R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "regex": 1})",
        R"({"type": "Metaspace", "replacement": "ab"})", R"({"type": "Metaspace", "replacement": ""})",
        R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "second"})",
        R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})",
        R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Kept", "invert": false})",
        R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed"})",
        R"({"type": "Sequence", "pretokenizers": {}})", R"({"type": "Punctuation", "behavior": 1})",
        R"({"type": 1})"}) {
    EXPECT_THROW(Apply(Json::parse(config), "x"), Error) << config;
  }
}

}  // namespace
}  // namespace fiddler::text
