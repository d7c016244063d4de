#include "text/added_tokens.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cctype>
#include <chrono>

#include "base/error.h"
#include "base/rng.h"

namespace fiddler::text {
namespace {

Json Token(int id, const char* content, const Json& options = {}) {
  Json token = {{"id", id},
                {"content", content},
                {"special", false},
                {"normalized", false},
                {"single_word", false},
                {"lstrip", false},
                {"rstrip", false}};
  if (!options.is_null()) token.update(options);
  return token;
}

// A vocabulary of "a" and "b"; the first free id is 2.
AddedTokens Make(const std::vector<Json>& entries, const Json& normalizer = nullptr) {
  const Json list = entries;
  const Json vocab = {{"a", 0}, {"b", 1}};
  std::optional<JsonField> normalizer_field;
  if (!normalizer.is_null()) normalizer_field.emplace(normalizer, "test");
  return AddedTokens(JsonField(list, "test", "added_tokens"), Vocabulary(JsonField(vocab, "test")),
                     Normalizer(normalizer_field));
}

// "text|#id text|..." with the text that each segment covers.
std::string Show(std::string_view text, const std::vector<AddedTokens::Segment>& segments) {
  std::string shown;
  for (const auto& [span, id] : segments) {
    if (!shown.empty()) shown += '|';
    if (id) shown.append("#").append(std::to_string(*id)).append(" ");
    shown += At(text, span);
  }
  return shown;
}

std::string Raw(const AddedTokens& tokens, std::string_view text) {
  return Show(text, tokens.SplitRaw(text));
}

TEST(AddedTokens, TheLeftmostThenTheLongest) {
  const AddedTokens tokens = Make({Token(2, "<s>"), Token(3, "<s><"), Token(4, "s>x")});
  EXPECT_EQ(Raw(tokens, "q<s>x<s><s>"), "q|#2 <s>|x|#3 <s><|s>");
  EXPECT_EQ(Raw(tokens, "<s"), "<s");
  EXPECT_EQ(Raw(tokens, ""), "");
}

TEST(AddedTokens, SingleWord) {
  const AddedTokens tokens = Make({Token(2, "foo", {{"single_word", true}})});
  EXPECT_EQ(Raw(tokens, "foo foot afoo (foo) ünfoo foo_"), "#2 foo| foot afoo (|#2 foo|) ünfoo foo_");
}

TEST(AddedTokens, StripTakesWhiteSpaceAlong) {
  EXPECT_EQ(Raw(Make({Token(2, "<m>", {{"lstrip", true}})}), "x \u3000\n<m> y"), "x|#2  \u3000\n<m>| y");
  EXPECT_EQ(Raw(Make({Token(2, "<m>", {{"rstrip", true}})}), "x <m> \t y"), "x |#2 <m> \t |y");
  const AddedTokens both = Make({Token(2, "<m>", {{"lstrip", true}, {"rstrip", true}})});
  EXPECT_EQ(Raw(both, "<m>  <m>"), "#2 <m>  |#2 <m>") << "white space that is taken stays taken";
}

TEST(AddedTokens, WhiteSpaceThatIsATokenItselfTakesLinearTime) {
  const std::string spaces(200'000, ' ');  // looking at all of it for every token took more than a minute
  for (const char* option : {"lstrip", "rstrip"}) {
    const AddedTokens tokens = Make({Token(2, " ", {{option, true}})});
    const auto start = std::chrono::steady_clock::now();
    const std::vector<AddedTokens::Segment> segments = tokens.SplitRaw(spaces);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10)) << option;
    EXPECT_EQ(segments.size(), spaces.size()) << option;
    EXPECT_EQ(segments.front().span.end, option == std::string("rstrip") ? spaces.size() : 1u);
  }
}

// The rules as Hugging Face has them: the white space around every match is looked for anew.
TEST(AddedTokens, StripsLikeTheDefinition) {
  constexpr std::string_view kContents[] = {" ", "\t", "x", "x ", " y"};
  Rng rng(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<Json> entries;
    for (const std::string_view content : kContents) {
      entries.push_back(Token(static_cast<int>(2 + entries.size()), std::string(content).c_str(),
                              {{"lstrip", rng.NextBits() % 2 == 1}, {"rstrip", rng.NextBits() % 2 == 1}}));
    }
    std::string text;
    while (text.size() < 12) text += " \txyz"[rng.NextBits() % 5];
    const AddedTokens tokens = Make(entries);
    StringFinder finder;
    for (size_t i = 0; i < std::size(kContents); ++i) finder.Add(kContents[i], i);

    std::string expected;
    size_t covered = 0;
    size_t searched = 0;
    const auto show = [&](size_t begin, size_t end, int id) {
      expected += fmt::format("{}..{} #{}|", begin, end, id);
    };
    while (const auto match = finder.FindFirst(text, searched)) {
      auto [begin, end] = match->span;
      searched = end;
      const AddedToken& token = tokens.tokens()[match->value];
      while (token.lstrip && begin > 0 && std::isspace(text[begin - 1])) --begin;
      if (token.lstrip) begin = std::max(begin, covered);
      while (token.rstrip && end < text.size() && std::isspace(text[end])) ++end;
      if (covered < begin) show(covered, begin, -1);
      show(begin, end, token.id);
      covered = end;
    }
    if (covered != text.size()) show(covered, text.size(), -1);

    std::string got;
    for (const auto& [span, id] : tokens.SplitRaw(text)) {
      got += fmt::format("{}..{} #{}|", span.begin, span.end, id.value_or(-1));
    }
    ASSERT_EQ(got, expected) << "'" << text << "' " << Json(entries);
  }
}

TEST(AddedTokens, NormalizedOnesAreFoundInNormalizedText) {
  const AddedTokens tokens =
      Make({Token(2, "Day", {{"normalized", true}}), Token(3, "Raw")}, {{"type", "Lowercase"}});
  EXPECT_EQ(Raw(tokens, "Day Raw"), "Day |#3 Raw");
  EXPECT_EQ(Show("my day", tokens.SplitNormalized("my day")), "my |#2 day");
  EXPECT_EQ(tokens.tokens()[0].decoded_as, "day");
  EXPECT_EQ(tokens.Find("Day"), 2);
  EXPECT_EQ(tokens.Find("day"), std::nullopt);
}

TEST(AddedTokens, NothingIsLeftAfterNormalizationSoNothingIsFound) {
  const Json strip = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  const AddedTokens tokens = Make({Token(2, "  ", {{"normalized", true}})}, strip);
  EXPECT_EQ(Show("a  b", tokens.SplitNormalized("a  b")), "a  b");
}

TEST(AddedTokens, IdsAreTheOnesHuggingFaceGives) {
  EXPECT_EQ(Make({Token(0, "a"), Token(2, "<s>"), Token(3, "</s>"), Token(1, "b")}).tokens().size(), 4u);
  EXPECT_EQ(Make({Token(9, "")}).tokens().size(), 0u) << "ignored, as in Hugging Face";
  EXPECT_THROW(Make({Token(3, "<s>")}), Error) << "a gap";
  EXPECT_THROW(Make({Token(2, "a")}), Error) << "in the vocabulary with another id";
  EXPECT_THROW(Make({Token(0, "<s>")}), Error) << "the id of another token";
  EXPECT_THROW(Make({Token(-1, "<s>")}), Error);
  EXPECT_THROW(Make({Token(2, "<s>"), Token(2, "<s>")}), Error) << "twice";
}

TEST(AddedTokens, RefusesTokensThatBecomeTheSame) {
  const std::vector<Json> list = {Token(2, "Day", {{"normalized", true}}),
                                  Token(3, "DAY", {{"normalized", true}})};
  EXPECT_NO_THROW(Make(list));
  EXPECT_THROW(Make(list, {{"type", "Lowercase"}}), Error);
}

TEST(AddedTokens, RefusesBadEntries) {
  EXPECT_THROW(Make({Token(2, "x", {{"special", 1}})}), Error);
  EXPECT_THROW(Make({Token(2, "x", {{"weight", 1}})}), Error);
  EXPECT_THROW(Make({{{"id", 2}, {"content", "x"}}}), Error);
  EXPECT_THROW(Make({Token(2, std::string(2000, 'x').c_str())}), Error);
}

TEST(StringFinder, AStringMayStartInsideAnother) {
  StringFinder finder;
  finder.Add("abcd", 1);
  finder.Add("bc", 2);
  finder.Add("ab", 3);
  const auto match = finder.FindFirst("xabcx", 0);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->value, 3u);
  EXPECT_EQ(match->span, (Span{1, 3}));
  EXPECT_FALSE(finder.FindFirst("xabcx", 3));
  EXPECT_TRUE(finder.Contains("abcd"));
  EXPECT_FALSE(finder.Contains("abc"));
}

}  // namespace
}  // namespace fiddler::text
