#include "text/regex.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "text/regex_syntax.h"

namespace fiddler::text {
namespace {

std::vector<std::string> Matches(std::string_view pattern, std::string_view text) {
  std::vector<std::string> matches;
  for (const Span& match : Regex(pattern, "test").FindAll(text)) matches.emplace_back(At(text, match));
  return matches;
}

using Strings = std::vector<std::string>;

TEST(Regex, PublishedPatterns) {
  constexpr std::string_view kLlama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(Matches(kLlama3, "I'LL pay $1234!\n\n  Olé"),
            (Strings{"I", "'LL", " pay", " $", "123", "4", "!\n\n", " ", " Olé"}));
  constexpr std::string_view kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(Matches(kGpt2, "it's 12 o'clock  now"),
            (Strings{"it", "'s", " 12", " o", "'", "clock", " ", " now"}));
}

TEST(Regex, EmptyMatchesDoNotStallOrRepeat) {
  EXPECT_EQ(Matches("x*", "axxb"), (Strings{"", "xx", ""}));
  EXPECT_EQ(Matches("$", "ä"), (Strings{""}));
}

// Each of these is a set of its own in PCRE2.
TEST(Regex, ClassesMeanWhatTheyMeanInOniguruma) {
  EXPECT_EQ(Matches(R"(\s)", "\u180E\u0085\u00A0\x0B"), (Strings{"\u0085", "\u00A0", "\x0B"}));
  EXPECT_EQ(Matches(R"([\S])", "\u180E \u3000b"), (Strings{"\u180E", "b"}));
  EXPECT_EQ(Matches(R"(\w+)", "e\u0301\u203F²-½"), (Strings{"e\u0301\u203F²", "½"}));
  EXPECT_EQ(Matches(R"(\v)", "\n\x0B\r"), (Strings{"\x0B"}));
  EXPECT_EQ(Matches(R"(\u00e9\x{20ac}\x41)", "é€A"), (Strings{"é€A"}));
  EXPECT_EQ(Matches("^b$", "a\nb\nc"), (Strings{"b"}));
  EXPECT_EQ(Matches("a.", "a\ra\n"), (Strings{"a\r"}));
}

TEST(Regex, KnowsUnicode16WhateverPcre2Knows) {
  const std::string_view letters = "\U0001E030\U00031350\u1C89";  // added in 15.0, 15.0 and 16.0
  EXPECT_EQ(Matches(R"(\p{L}+)", letters), Strings{std::string(letters)});
  EXPECT_EQ(Matches(R"([^\s\p{L}\p{N}]|\P{L}|\p{^L})", letters), Strings{});
  EXPECT_EQ(Matches(R"(\w+)", letters), Strings{std::string(letters)});
  EXPECT_EQ(Matches(R"(\p{Lu})", letters), Strings{"\u1C89"});
}

TEST(Regex, RefusesWhatWouldMeanSomethingElse) {
  for (const char* pattern :
       {R"([a[b]])",  R"([a&&b])", R"(\h)",          R"(\R)",     R"(\b)",      R"((a)\1)",
        R"(\p{Han})", R"(\pL)",    R"((?m)a)",       R"(a(?i)b)", R"((?<n>a))", R"((*UTF))",
        R"(a{2}+)",   R"(a{2}?)",  R"(a{,2})",       R"([])",     R"([\W])",    R"(\x4)",
        R"([a)",      R"(\)",      R"([[:alpha:]])", R"(\K)"}) {
    EXPECT_THROW(ToPcre2Syntax(pattern, "test"), Error) << pattern;
  }
  EXPECT_EQ(ToPcre2Syntax(R"((?i)a{1,3}[^\]\-]\.{)", "test"), R"((?i)a{1,3}[^\]\-]\.{)");
}

TEST(Regex, ErrorsNameThePlace) {
  try {
    Regex("a)", "tokenizer.json: pre_tokenizer.pattern");
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(std::string_view(error.what()).starts_with("tokenizer.json: pre_tokenizer.pattern: "))
        << error.what();
  }
}

TEST(Regex, AHostilePatternEndsInAnError) {
  const Regex regex("(?:a+)+[bc]", "test");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(regex.FindAll(std::string(5000, 'a')), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Regex, LongRunsStayWithinTheLimit) {
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(Matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces), Strings{spaces});
  EXPECT_EQ(Matches(R"((?:ab|c)+)", std::string(1'000'000, 'c')).size(), 1u)
      << "more than the stack of the JIT holds";
}

TEST(Pattern, LiteralsAreNotExpressions) {
  const Json json = Json::parse(R"({"String": "a.b"})");
  const Pattern pattern{JsonField(json, "test")};
  EXPECT_EQ(pattern.FindAll("a.ba.bacb"), (std::vector<Span>{{0, 3}, {3, 6}}));
  EXPECT_EQ(ReplaceAll("a.bxa.b", pattern.FindAll("a.bxa.b"), "$1"), "$1x$1");
}

TEST(Pattern, RefusesOtherThanOneString) {
  for (const char* text : {R"({})", R"({"String": "a", "Regex": "b"})", R"({"String": ""})",
                           R"({"String": 1})", R"({"Glob": "*"})", R"("a")"}) {
    const Json json = Json::parse(text);
    EXPECT_THROW(Pattern{JsonField(json, "test")}, Error) << text;
  }
}

}  // namespace
}  // namespace fiddler::text
