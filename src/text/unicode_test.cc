#include "text/unicode.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace fiddler::text {
namespace {

std::string Repaired(std::string_view bytes) {
  std::string text;
  EXPECT_EQ(DecodeLossy(bytes, /*complete=*/true, text), bytes.size());
  return text;
}

TEST(Utf8, EveryCodePointSurvivesEncodingAndDecoding) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    AppendUtf8(code, text);
    ASSERT_TRUE(IsValidUtf8(text)) << std::hex << static_cast<uint32_t>(code);
    ASSERT_EQ(DecodeAt(text, 0).code, code);
    ASSERT_EQ(DecodeAt(text, 0).bytes, text.size());
    ASSERT_EQ(DecodeLast("x" + text).code, code);
  }
}

TEST(Utf8, RefusesWhatIsIllFormed) {
  for (const std::string_view bytes :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "a\xC3"}) {
    EXPECT_FALSE(IsValidUtf8(bytes)) << Repaired(bytes);
  }
}

// The examples of the Unicode standard, chapter 3.9, tables 3-8 to 3-11.
TEST(Utf8, ReplacesMaximalIllFormedRuns) {
  EXPECT_EQ(Repaired("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(Repaired("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(Repaired("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41\uFFFD\uFFFD\x42");
  EXPECT_EQ(Repaired("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  EXPECT_EQ(Repaired("caf\xC3"), "caf\uFFFD");
}

TEST(Utf8, LeavesACharacterThatMayBeCompletedLater) {
  std::string text;
  EXPECT_EQ(DecodeLossy("a\xF0\x9F\x98", /*complete=*/false, text), 1u);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(DecodeLossy("\xF0\x9F\x98\x80", /*complete=*/false, text), 4u);
  EXPECT_EQ(text, "a\U0001F600");
  EXPECT_EQ(DecodeLossy("\xF0\x41", /*complete=*/false, text), 2u) << "can no longer become valid";
  EXPECT_EQ(text, "a\U0001F600\uFFFD\x41");
}

TEST(UnicodeProperties, Whitespace) {
  int count = 0;
  for (char32_t code = 0; code < 0x110000; ++code) count += IsWhitespace(code);
  EXPECT_EQ(count, 25) << "characters with White_Space in every Unicode version since 6.3";
  EXPECT_TRUE(IsWhitespace(0x3000));
  EXPECT_FALSE(IsWhitespace(0x200B)) << "zero width space is not white space";
}

TEST(UnicodeProperties, NumericPunctuationWord) {
  for (const char32_t code : {U'7', U'\u0669', U'\u00BD', U'\u2167'}) EXPECT_TRUE(IsNumeric(code));
  for (const char32_t code : {U'a', U'\u4E00', U' '}) EXPECT_FALSE(IsNumeric(code));
  for (const char32_t code : {U'!', U'$', U'~', U'\u3002', U'\u00BF'}) EXPECT_TRUE(IsPunctuation(code));
  for (const char32_t code : {U'a', U' ', U'\u20AC', U'\x7F'}) EXPECT_FALSE(IsPunctuation(code));
  for (const char32_t code : {U'a', U'_', U'5', U'\u0301', U'\u200D', U'\u24B6'}) EXPECT_TRUE(IsWord(code));
  for (const char32_t code : {U'-', U' ', U'\u00BD', U'\U0001F600'}) EXPECT_FALSE(IsWord(code));
}

TEST(UnicodeProperties, LowercaseIsPerCharacter) {
  EXPECT_EQ(Lowercase("ÀΣ ΑΣ ẞ"), "àσ ασ ß");
  EXPECT_EQ(Lowercase("\u0130"), "i\u0307");
}

}  // namespace
}  // namespace fiddler::text
