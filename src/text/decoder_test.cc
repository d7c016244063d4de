// What decoders make of tokens is compared with Hugging Face in components_golden_test.cc.
#include "text/decoder.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fiddler::text {
namespace {

Json Sequence(std::initializer_list<Json> decoders) {
  return {{"type", "Sequence"}, {"decoders", Json(decoders)}};
}

// What comes out after each token and at the end, joined by "|".
std::string Stream(const Json& config, const std::vector<std::string>& tokens) {
  const Decoder decoder(JsonField(config, "test", "decoder"));
  DecodeStream stream = decoder.Start();
  std::string joined;
  for (const std::string& token : tokens) {
    stream.Push(token);
    joined += stream.TakeText() + "|";
  }
  stream.Finish();
  return joined + stream.TakeText();
}

const Json kFuse = {{"type", "Fuse"}};
const Json kByteFallback = {{"type", "ByteFallback"}};
const Json kByteLevel = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
Json Strip(int start, int stop) {
  return {{"type", "Strip"}, {"content", "-"}, {"start", start}, {"stop", stop}};
}

TEST(DecodeStream, ByteLevelWaitsForTheEndOfACharacter) {
  EXPECT_EQ(Stream(kByteLevel, {"a", "Ã", "©Ġ", "x"}), "a||é |x|");
  EXPECT_EQ(Stream(kByteLevel, {"Ã", "a"}), "|\uFFFDa|") << "the first byte can no longer become a character";
  EXPECT_EQ(Stream(kByteLevel, {"a", "Ã"}), "a||\uFFFD") << "cut off at the end";
}

TEST(DecodeStream, ByteFallbackWaitsForTheEndOfTheRun) {
  EXPECT_EQ(Stream(kByteFallback, {"<0xC3>", "<0xA9>", "a"}), "||éa|");
  EXPECT_EQ(Stream(kByteFallback, {"<0xC3>", "<0xA9>", "<0xFF>", "a"}), "|||\uFFFD\uFFFD\uFFFDa|")
      << "one bad byte spoils the run, so nothing of it may come out early";
  EXPECT_EQ(Stream(kByteFallback, {"a", "<0x41>"}), "a||A");
}

TEST(DecodeStream, StripOnFusedTextDoesNotHoldBack) {
  EXPECT_EQ(Stream(Sequence({kFuse, Strip(2, 0)}), {"-", "--a", "-b"}), "|-a|-b|");
  EXPECT_EQ(Stream(Sequence({kFuse, Strip(2, 0)}), {"a-", "--"}), "a-|--|");
}

TEST(DecodeStream, StagesThatNeedTheWholeTextHoldItBack) {
  EXPECT_EQ(Stream(Sequence({kFuse, Strip(1, 1)}), {"-a", "-", "-"}), "|||a-");
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", "ab"}}}, {"content", "x"}};
  EXPECT_EQ(Stream(Sequence({kFuse, replace}), {"a", "b"}), "||x");
  EXPECT_EQ(Stream(Sequence({replace, kFuse}), {"a", "b", "ab"}), "a|b|x|");
}

TEST(Decoder, StripTakesAtMostWhatIsThere) {
  EXPECT_EQ(Stream(Strip(1, 1), {"-", "--", "---", "-a-", ""}), "||-|a||");
}

TEST(Decoder, RefusesWhatItDoesNotKnow) {
  for (const char* config :
       {R"({"type": "WordPiece", "prefix": "##", "cleanup": true})", R"({"type": "CTC"})",
        R"({"type": "Fuse", "x": 1})", R"({"type": "Strip", "content": "ab", "start": 1, "stop": 0})",
        R"({"type": "Strip", "content": "a", "start": -1, "stop": 0})",
        R"({"type": "Sequence", "decoders": 1})", R"({"type": "Replace", "content": "a"})", R"({})"}) {
    EXPECT_THROW(Stream(Json::parse(config), {}), Error) << config;
  }
}

}  // namespace
}  // namespace fiddler::text
