#include "engine/text_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "io/test_files.h"
#include "text/tokenizer.h"

namespace fiddler {
namespace {

// A Llama-style vocabulary: "▁" for spaces, the first of a text stripped, bytes for what has no token.
const Tokenizer& DemoTokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::FromFile(std::filesystem::path(FIDDLER_SOURCE_DIR) / "models/demo/tokenizer.json");
  return tokenizer;
}

int32_t ByteToken(unsigned byte) { return *DemoTokenizer().TokenToId(fmt::format("<0x{:02X}>", byte)); }

std::vector<int32_t> Prompt(std::string_view text) { return DemoTokenizer().Encode(text, true); }

// Tokens of `text` as it stands inside a text: no "▁" put in front.
std::vector<int32_t> Inner(std::string_view text) {
  std::vector<int32_t> ids = DemoTokenizer().Encode("a\n" + std::string(text), false);
  const std::vector<int32_t> prefix = DemoTokenizer().Encode("a\n", false);
  EXPECT_TRUE(std::equal(prefix.begin(), prefix.end(), ids.begin()));
  return {ids.begin() + static_cast<std::ptrdiff_t>(prefix.size()), ids.end()};
}

bool IsUtf8(std::string_view text) {
  try {
    return !Json(text).dump().empty();  // throws on anything else
  } catch (const Json::type_error&) {
    return false;
  }
}

struct Streamed {
  std::string text;
  bool stopped = false;
};

Streamed Stream(std::span<const int32_t> prompt, std::span<const int32_t> tokens,
                const std::vector<std::string>& stops) {
  TextStream stream(DemoTokenizer(), prompt, stops);
  Streamed result;
  const auto take = [&](const std::string& piece) {
    EXPECT_TRUE(IsUtf8(piece)) << "half a character";
    result.text += piece;
  };
  for (int32_t token : tokens) {
    const bool over = stream.stopped();
    const std::string piece = stream.Push(token);
    EXPECT_TRUE(piece.empty() || !over);
    take(piece);
  }
  take(stream.Flush());
  EXPECT_EQ(stream.Flush(), "");
  result.stopped = stream.stopped();
  return result;
}

// What is before the stop string that is complete first; of those that end together the longest.
Streamed CutByDefinition(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 0; end <= text.size(); ++end) {
    size_t begin = std::string::npos;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        begin = std::min(begin, end - stop.size());
      }
    }
    if (begin != std::string::npos) return {.text = text.substr(0, begin), .stopped = true};
  }
  return {.text = text, .stopped = false};
}

TEST(TextStreamTest, ContinuesThePromptExactly) {
  // " day" after a word keeps its space; after <s> alone the first space is the tokenizer's own.
  const std::vector<int32_t> day = DemoTokenizer().Encode("day", false);
  EXPECT_EQ(Stream(Prompt("One"), day, {}).text, " day");
  EXPECT_EQ(Stream(Prompt(""), day, {}).text, "day");
  EXPECT_EQ(Stream(std::vector<int32_t>{}, day, {}).text, "day");
  EXPECT_EQ(Stream(Prompt("One day"), Inner("s"), {}).text, "s");
}

TEST(TextStreamTest, PlainTextIsNotHeldBack) {
  TextStream stream(DemoTokenizer(), Prompt("Once"), {"xyz"});
  std::string text;
  std::vector<int32_t> pushed = Prompt("Once");
  for (int32_t token : DemoTokenizer().Encode("upon a time", false)) {
    text += stream.Push(token);
    pushed.push_back(token);
    EXPECT_EQ("Once" + text, DemoTokenizer().Decode(pushed, true));
  }
}

TEST(TextStreamTest, CharactersInPiecesWaitForTheLastByte) {
  TextStream stream(DemoTokenizer(), Prompt("One"), {});
  std::string text;
  const std::string euro = "€";  // three bytes
  for (char byte : euro) {
    EXPECT_EQ(text, "");
    text += stream.Push(ByteToken(static_cast<unsigned char>(byte)));
  }
  text += stream.Push(DemoTokenizer().Encode("!", false).back());
  EXPECT_EQ(text.substr(0, euro.size()), euro);
}

TEST(TextStreamTest, AnUnfinishedCharacterBecomesAReplacement) {
  const std::vector<int32_t> half = {ByteToken(0xe2), ByteToken(0x82)};
  const std::string text = Stream(Prompt("One"), half, {}).text;
  EXPECT_FALSE(text.empty());
  std::vector<int32_t> all = Prompt("One");
  all.insert(all.end(), half.begin(), half.end());
  EXPECT_EQ("One" + text, DemoTokenizer().Decode(all, true));
}

TEST(TextStreamTest, StopStrings) {
  const std::vector<int32_t> tokens = Inner("the cat sat on the mat. The end");
  const auto stream = [&](const std::vector<std::string>& stops) {
    return Stream(Prompt("a\n"), tokens, stops).text;
  };
  EXPECT_EQ(stream({}), "the cat sat on the mat. The end");
  EXPECT_EQ(stream({"sat on"}), "the cat ");
  EXPECT_EQ(stream({"zzz", "mat"}), "the cat sat on the ");
  EXPECT_EQ(stream({"the"}), "");
  EXPECT_EQ(stream({"at s", "cat"}), "the ");  // complete first
  EXPECT_EQ(stream({"t", "cat sat"}), "");
  EXPECT_EQ(stream({"at", "cat", "t"}), "");
  EXPECT_EQ(stream({"at", "he cat"}), "t");                        // end together: the longest
  EXPECT_EQ(stream({"end."}), "the cat sat on the mat. The end");  // only begun: given back
  EXPECT_EQ(stream({"mat. The ent"}), "the cat sat on the mat. The end");
}

TEST(TextStreamTest, AStopStringThatOverlapsItself) {
  const std::vector<int32_t> tokens = Inner("aaaabaaab!");
  EXPECT_EQ(Stream(Prompt("a\n"), tokens, {"aaab"}).text, "a");
  EXPECT_EQ(Stream(Prompt("a\n"), tokens, {"aab!"}).text, "aaaaba");
}

TEST(TextStreamTest, StopStringsThatCannotBeAreRefused) {
  EXPECT_EQ(ErrorOf([] { TextStream(DemoTokenizer(), {}, {"\xa9"}); }),
            "stop: expected UTF-8, got \"\\ufffd\"");
  EXPECT_EQ(ErrorOf([] {
              TextStream(DemoTokenizer(), {}, {"a", ""});
            }),
            "stop: expected a string, got an empty one");
}

// Random tokens, bytes of characters among them; stop strings taken from what they decode to.
TEST(TextStreamTest, AnyTokensAnyStops) {
  Rng rng(5);
  const auto below = [&](size_t limit) { return static_cast<size_t>(rng.NextBits() % limit); };
  const std::vector<std::string> characters = {"é", "日", "🙂", "a", " ", "ß", "\n"};
  int stopped = 0;
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> tokens;
    for (size_t i = below(30); i > 0; --i) {
      if (below(2) == 0) {
        tokens.push_back(static_cast<int32_t>(below(static_cast<size_t>(DemoTokenizer().vocab_size()))));
      } else {
        for (char byte : characters[below(characters.size())]) {
          tokens.push_back(ByteToken(static_cast<unsigned char>(byte)));
        }
      }
    }
    const std::vector<int32_t> prompt = below(2) == 0 ? Prompt("Once") : std::vector<int32_t>{};
    std::vector<int32_t> all = prompt;
    all.insert(all.end(), tokens.begin(), tokens.end());
    const std::string prompt_text = DemoTokenizer().Decode(prompt, true);
    const std::string text = DemoTokenizer().Decode(all, true).substr(prompt_text.size());
    EXPECT_EQ(Stream(prompt, tokens, {}).text, text);

    std::vector<std::string> stops = {"never"};
    const auto is_boundary = [&](size_t at) {
      return at == text.size() || (static_cast<unsigned char>(text[at]) & 0xc0) != 0x80;
    };
    for (size_t i = below(4); i > 0 && !text.empty(); --i) {
      size_t begin = below(text.size());
      size_t end = std::min(text.size(), begin + 1 + below(8));
      while (!is_boundary(begin)) --begin;
      while (!is_boundary(end)) ++end;
      stops.push_back(text.substr(begin, end - begin));
      if (below(3) == 0) stops.back() += "?";  // mostly never comes
    }
    const Streamed expected = CutByDefinition(text, stops);
    const Streamed got = Stream(prompt, tokens, stops);
    EXPECT_EQ(got.text, expected.text);
    EXPECT_EQ(got.stopped, expected.stopped);
    stopped += got.stopped ? 1 : 0;
  }
  EXPECT_GT(stopped, 100);
}

// The decoder holds back bytes that may still become a character: they are the prompt's all the same.
TEST(TextStreamTest, TheEndOfThePromptIsNotGeneratedText) {
  for (const char* prompt : {"I like this \U0001F642", "\u65e5\u672c", "Hello", "", " "}) {
    const std::vector<int32_t> tokens = Inner(", who is there?");
    const Streamed streamed = Stream(Prompt(prompt), tokens, {"\U0001F642", "\u672c", "Hello"});
    EXPECT_EQ(streamed.text, ", who is there?") << prompt;
    EXPECT_FALSE(streamed.stopped) << prompt;
  }
}

// Some decoders (here one without Replace before Fuse) give nothing before the end.
TEST(TextStreamTest, ADecoderThatGathersEverythingGivesTheContinuationAtTheEnd) {
  Json json = ParseJson(
      ReadFile(std::filesystem::path(FIDDLER_SOURCE_DIR) / "models/demo/tokenizer.json", 1 << 24), "demo");
  json["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}}}}};
  const Tokenizer tokenizer = Tokenizer::FromJson(json, "demo");
  TextStream stream(tokenizer, Prompt("Hello"), {});
  std::string text;
  for (int32_t token : Inner(", who is there?")) text += stream.Push(token);
  EXPECT_EQ(text + stream.Flush(), ", who is there?");
}

}  // namespace
}  // namespace fiddler
