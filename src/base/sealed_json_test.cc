#include "base/sealed_json.h"

#include <gtest/gtest.h>

#include "base/error_testing.h"
#include "base/json.h"
#include "base/rng.h"

namespace fiddler {
namespace {

constexpr JsonKind kKind = {.name = "test", .version = 3};

Json Content() {
  return {{"a", 1}, {"b", {0.1, -2, "x\n\u00e9"}}, {"c", {{"d", nullptr}}}, {"e", uint64_t{1} << 63}};
}

std::string Complaint(const std::string& text) {
  return ErrorOf([&] { UnsealJson(kKind, text, "f"); });
}

TEST(SealedJsonTest, GivesBackTheContent) {
  EXPECT_EQ(UnsealJson(kKind, SealJson(kKind, Content()), "f"), Content());
  EXPECT_EQ(UnsealJson(kKind, SealJson(kKind, Json::object()), "f"), Json::object());
}

TEST(SealedJsonTest, MayBeReformatted) {
  const std::string text = SealJson(kKind, Content());
  EXPECT_EQ(UnsealJson(kKind, ParseJson(text, "f").dump(4), "f"), Content());
}

TEST(SealedJsonTest, BrokenUtf8IsReplaced) {
  const std::string text = SealJson(kKind, {{"name", "a\xff"}});
  EXPECT_EQ(UnsealJson(kKind, text, "f"), Json({{"name", "a\uFFFD"}}));
}

TEST(SealedJsonTest, NamesWhatIsWrong) {
  EXPECT_EQ(Complaint("[]"), "f: expected a JSON object, got []");
  EXPECT_EQ(Complaint("{}"), "f: kind: expected a value, got nothing: the field is missing");
  EXPECT_EQ(Complaint(R"({"kind": "other"})"), "f: kind: expected \"test\", got \"other\"");
  EXPECT_EQ(Complaint(SealJson({.name = "test", .version = 4}, Content())), "f: version: expected 3, got 4");
  EXPECT_EQ(Complaint(R"({"kind": "test", "version": 3})"),
            "f: checksum: expected a value, got nothing: the field is missing");
  EXPECT_EQ(Complaint(R"({"kind": "test", "version": 3, "checksum": "x"})").substr(0, 22),
            "f: checksum: expected ");
}

TEST(SealedJsonTest, NoPrefixIsTakenForTheWhole) {
  const std::string text = SealJson(kKind, Content());
  for (size_t size = 0; size + 2 < text.size(); ++size)
    Complaint(text.substr(0, size));  // fails if there is none
}

// Whatever single byte is changed: refused, or nothing but white space or the spelling of the same value.
TEST(SealedJsonTest, EveryChangeIsNoticed) {
  const std::string text = SealJson(kKind, Content());
  for (size_t i = 0; i < text.size(); ++i) {
    for (const char c : {'0', '7', ' ', 'a', '"', '}', '\0'}) {
      std::string changed = text;
      changed[i] = c;
      try {
        EXPECT_EQ(UnsealJson(kKind, changed, "f"), Content()) << changed;
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace fiddler
