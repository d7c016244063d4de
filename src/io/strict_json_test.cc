#include "io/strict_json.h"

#include <gtest/gtest.h>

#include "io/test_files.h"

namespace fiddler {
namespace {

std::string ParseError(std::string_view text) {
  return ErrorOf([&] { ParseStrictJson(text, "f.json"); });
}

TEST(StrictJson, ReadsValidJson) {
  const Json json = ParseStrictJson(R"({"a":[1,{"a":2}],"b":{"a":3}})", "f.json");
  EXPECT_EQ(json["a"][1]["a"], 2);
  EXPECT_EQ(json["b"]["a"], 3);
}

TEST(StrictJson, RefusesANameGivenTwiceAtAnyDepth) {
  EXPECT_EQ(ParseError(R"({"a":1,"b":2,"a":3})"), R"(f.json: expected every name once, got "a" twice)");
  EXPECT_EQ(ParseError(R"({"a":[{"x\n":1,"x\u000a":2}]})"),
            R"(f.json: expected every name once, got "x\n" twice)");
}

TEST(StrictJson, RefusesWhatIsNoJson) {
  EXPECT_EQ(ParseError("{\"a\":"), "f.json: expected JSON, got a syntax error at byte 6");
  EXPECT_EQ(ParseError("{} x"), "f.json: expected JSON, got a syntax error at byte 4");
  EXPECT_EQ(ParseError("{\"\xff\":1}"), "f.json: expected JSON, got a syntax error at byte 3");
  EXPECT_EQ(ParseError("[1e999]"), "f.json: expected JSON, got a number too large to represent");
}

TEST(StrictJson, RefusesDeepNestingWithoutRecursion) {
  EXPECT_EQ(ParseError(std::string(1'000'000, '[')),
            "f.json: expected JSON nested at most 64 deep, got more");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_EQ(ParseError(objects), "f.json: expected JSON nested at most 64 deep, got more");
}

TEST(Printable, IsOneShortLineOfAscii) {
  EXPECT_EQ(Printable("a\nb\x01"), R"("a\nb\u0001")");
  EXPECT_EQ(Printable("caf\xc3\xa9 \xff"), R"("caf\u00e9 \ufffd")");
  EXPECT_EQ(Printable(std::string(1000, 'x')), "\"" + std::string(79, 'x') + "...");
}

}  // namespace
}  // namespace fiddler
