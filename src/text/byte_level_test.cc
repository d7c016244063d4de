#include "text/byte_level.h"

#include <gtest/gtest.h>

#include <set>

namespace fiddler::text {
namespace {

TEST(ByteLevel, EveryByteHasItsOwnCharacter) {
  std::set<std::string> characters;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    std::string character;
    AppendByteLevel(bytes, character);
    EXPECT_EQ(FromByteLevel(character), bytes);
    characters.insert(character);
  }
  EXPECT_EQ(characters.size(), 256u);
}

TEST(ByteLevel, TheAlphabetOfGpt2) {
  std::string text;
  AppendByteLevel(" A\n\x7F\u00AD", text);
  EXPECT_EQ(text, "ĠAĊġÂŃ");
}

TEST(ByteLevel, OtherCharactersStandForNothing) {
  EXPECT_EQ(FromByteLevel("a b"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\u0144"), std::nullopt) << "the first one past the alphabet";
  EXPECT_EQ(FromByteLevel("\u4E00"), std::nullopt);
  EXPECT_EQ(FromByteLevel(""), "");
}

}  // namespace
}  // namespace fiddler::text
