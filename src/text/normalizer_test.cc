// What single normalizers do to text is compared with Hugging Face in components_golden_test.cc.
#include "text/normalizer.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fiddler::text {
namespace {

TextPart Apply(const Json& config, std::string text) {
  TextPart part{.text = std::move(text)};
  Normalizer(JsonField(config, "test", "normalizer")).Apply(part);
  return part;
}

TEST(Normalizer, NoneLeavesTextAlone) {
  TextPart part{.text = " A\u0301 "};
  Normalizer(std::nullopt).Apply(part);
  EXPECT_EQ(part.text, " A\u0301 ");
}

TEST(Normalizer, ASequenceRunsInOrder) {
  const Json prepend = {{"type", "Prepend"}, {"prepend", "A"}};
  const Json lowercase = {{"type", "Lowercase"}};
  const auto sequence = [](Json first, Json second) {
    return Json{{"type", "Sequence"}, {"normalizers", {std::move(first), std::move(second)}}};
  };
  EXPECT_EQ(Apply(sequence(prepend, lowercase), "X").text, "ax");
  EXPECT_EQ(Apply(sequence(lowercase, prepend), "X").text, "Ax");
  EXPECT_EQ(Apply(prepend, "").text, "") << "nothing is prepended to nothing";
}

TEST(Normalizer, KnowsWhetherTheFirstCharacterOfTheInputIsStillThere) {
  const Json strip = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  EXPECT_TRUE(Apply(strip, "a ").starts_input);
  EXPECT_FALSE(Apply(strip, " a").starts_input);
  const auto replace = [](const char* pattern, const char* content) {
    return Json{{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
  };
  EXPECT_TRUE(Apply(replace("é", "xy"), "éa").starts_input);
  EXPECT_TRUE(Apply(replace("ab", "x"), "cab").starts_input);
  EXPECT_FALSE(Apply(replace("ab", "x"), "abc").starts_input) << "x stands for b";
  EXPECT_FALSE(Apply(replace("a", ""), "ab").starts_input);
}

TEST(Normalizer, RefusesToMakeTooMuchOfAText) {
  const auto replace = [](const char* pattern, std::string content) {
    return Json{{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", std::move(content)}};
  };
  // One byte, then 1025, then 1025 * 2^20: refused before that memory is asked for.
  const Json config = {{"type", "Sequence"},
                       {"normalizers",
                        {replace("a", std::string(1025, 'b')),
                         {{"type", "NFC"}},
                         replace("b", std::string(size_t{1} << 20, 'b'))}}};
  EXPECT_EQ(Apply(config, "c").text, "c");
  try {
    Apply(config, "a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "test: normalizer.normalizers[2]: expected at most 1073741824 bytes of text to come out, got "
        "1074790400");
  }
}

TEST(Normalizer, RefusesWhatItDoesNotKnow) {
  for (const char* config :
       {R"({"type": "Precompiled", "precompiled_charsmap": ""})", R"({"type": "NFC", "lowercase": true})",
        R"({"type": "Strip", "strip_left": true})", R"({"type": "Prepend", "prepend": 1})",
        R"({"type": "Sequence"})", R"({"type": "Sequence", "normalizers": [{"type": "Bert"}]})",
        R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})", R"({})", R"([])", R"("NFC")"}) {
    EXPECT_THROW(Apply(Json::parse(config), "x"), Error) << config;
  }
  try {
    Apply({{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Nmt"}}}}}, "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "test: normalizer.normalizers[1].type: expected Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
        "Prepend or Replace, got \"Nmt\"");
  }
}

}  // namespace
}  // namespace fiddler::text
