#include "base/json.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fiddler {
namespace {

std::string ParseError(std::string_view text) {
  try {
    ParseJson(text, "f.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no Error";
}

std::string Nested(size_t depth, std::string_view open, std::string_view close) {
  std::string text;
  for (size_t i = 0; i < depth; ++i) text += open;
  text += "1";
  for (size_t i = 0; i < depth; ++i) text += close;
  return text;
}

// What the library builds by itself, for text that both accept.
TEST(ParseJson, BuildsTheSameValueAsTheLibrary) {
  for (const char* text :
       {"null", " true\n", "-1", "18446744073709551615", "9223372036854775807", "-9223372036854775808",
        "18446744073709551616", "1.5e3", R"("caf\u00e9 \ud83d\ude00\n")", "[]", "{}", "[[],{},[{}]]",
        R"({"a":[1,{"a":2},"x"],"b":{"a":3,"c":null},"":false})", R"([{"a":[1]},[2,[3]],{"a":{"b":4}},5])",
        "\xef\xbb\xbf[1]"}) {
    const Json json = ParseJson(text, "f.json");
    const Json expected = Json::parse(text);
    EXPECT_EQ(json, expected) << text;
    EXPECT_EQ(json.type(), expected.type()) << text;
    EXPECT_EQ(json.dump(), expected.dump()) << text;
  }
}

TEST(ParseJson, RefusesANameGivenTwiceAtAnyDepth) {
  EXPECT_EQ(ParseError(R"({"a":1,"b":2,"a":3})"), R"(f.json: expected every name once, got "a" twice)");
  EXPECT_EQ(ParseError(R"({"a":{"b":1},"a":2})"), R"(f.json: expected every name once, got "a" twice)");
  EXPECT_EQ(ParseError(R"({"a":[{"x\n":1,"x\u000a":2}]})"),
            R"(f.json: expected every name once, got "x\n" twice)");
  EXPECT_EQ(ParseError(R"([{"a":1},{"a":{"a":2}}])"), "no Error");
}

TEST(ParseJson, RefusesWhatIsNoJson) {
  EXPECT_EQ(ParseError(""), "f.json: expected JSON, got a syntax error at byte 1");
  EXPECT_EQ(ParseError("{\"a\": "), "f.json: expected JSON, got a syntax error at byte 7");
  EXPECT_EQ(ParseError("{\"\xff\":1}"), "f.json: expected JSON, got a syntax error at byte 3");
  EXPECT_EQ(ParseError("[NaN]"), "f.json: expected JSON, got a syntax error at byte 2");
  EXPECT_EQ(ParseError("[1,]"), "f.json: expected JSON, got a syntax error at byte 4");
  EXPECT_EQ(ParseError("[1e999]"), "f.json: expected JSON, got a number too large to represent");
}

TEST(ParseJson, RefusesWhatFollowsTheValue) {
  EXPECT_EQ(ParseError("{} x"), "f.json: expected JSON, got a syntax error at byte 4");
  EXPECT_EQ(ParseError("{}{}"), "f.json: expected JSON, got a syntax error at byte 3");
  using std::string_view_literals::operator""sv;
  EXPECT_EQ(ParseError("{}\0garbage"sv), "f.json: expected JSON, got a NUL at byte 3");
  EXPECT_EQ(ParseError("{}\0"sv), "f.json: expected JSON, got a NUL at byte 3");
  EXPECT_EQ(ParseError("{} \r\n\t"), "no Error");
}

TEST(ParseJson, RefusesDeepNestingWithoutRecursion) {
  EXPECT_EQ(ParseError(Nested(64, "[", "]")), "no Error");
  EXPECT_EQ(ParseError(Nested(64, "{\"a\":", "}")), "no Error");
  const std::string too_deep = "f.json: expected JSON nested at most 64 deep, got more";
  EXPECT_EQ(ParseError(Nested(65, "[", "]")), too_deep);
  EXPECT_EQ(ParseError(Nested(65, "{\"a\":", "}")), too_deep);
  EXPECT_EQ(ParseError(std::string(1'000'000, '[')), too_deep);
}

TEST(Printable, IsOneShortLineOfAscii) {
  EXPECT_EQ(Printable("a\nb\x01"), R"("a\nb\u0001")");
  EXPECT_EQ(Printable("caf\xc3\xa9 \xff"), R"("caf\u00e9 \ufffd")");
  EXPECT_EQ(Printable(std::string(1000, 'x')), "\"" + std::string(79, 'x') + "...");
}

}  // namespace
}  // namespace fiddler
