#include "text/normal_form.h"

#include <gtest/gtest.h>

#include <chrono>

namespace fiddler::text {
namespace {

TEST(NormalForm, TheFourForms) {
  const std::string_view text = "\u1E9B\u0323 \uFB01";  // UAX #15, figure 6
  EXPECT_EQ(Normalize(text, NormalForm::kNfc), "\u1E9B\u0323 \uFB01");
  EXPECT_EQ(Normalize(text, NormalForm::kNfd), "\u017F\u0323\u0307 \uFB01");
  EXPECT_EQ(Normalize(text, NormalForm::kNfkc), "\u1E69 fi");
  EXPECT_EQ(Normalize(text, NormalForm::kNfkd), "s\u0323\u0307 fi");
}

TEST(NormalForm, SortsMarksByClassAndKeepsTheOrderWithin) {
  EXPECT_EQ(Normalize("e\u0301\u0323\u0300", NormalForm::kNfd), "e\u0323\u0301\u0300");
  EXPECT_EQ(Normalize("\u0301\u0323", NormalForm::kNfd), "\u0323\u0301") << "without a letter before";
}

TEST(NormalForm, Hangul) {
  EXPECT_EQ(Normalize("\u1112\u1161\u11AB", NormalForm::kNfc), "\uD55C");
  EXPECT_EQ(Normalize("\uD55C", NormalForm::kNfd), "\u1112\u1161\u11AB");
  EXPECT_EQ(Normalize("\uAC00\u11A7\uAC00\u11A8", NormalForm::kNfc), "\uAC00\u11A7\uAC01")
      << "U+11A7 stands before the finals and is none";
  EXPECT_EQ(Normalize("\u11A7\u11A7", NormalForm::kNfc), "\u11A7\u11A7");
}

// As in Hugging Face.
TEST(NormalForm, CharactersSinceUnicode9AreInert) {
  EXPECT_EQ(Normalize("\u089E\u0323", NormalForm::kNfc), "\u089E\u0323")
      << "a mark of class 230 before one of 220";
  EXPECT_EQ(Normalize("e\u1ABF\u0301", NormalForm::kNfc), "e\u1ABF\u0301") << "nothing composes across it";
  EXPECT_EQ(Normalize("\u32FF", NormalForm::kNfkc), "\u32FF");
  EXPECT_EQ(Normalize("\U00011935\U00011930", NormalForm::kNfc), "\U00011935\U00011930");
}

TEST(NormalForm, KeepsWhatIsNotACharacter) {
  const std::string text("\0\uFFFF\u0378\U0010FFFF\u0301", 13);
  EXPECT_EQ(Normalize(text, NormalForm::kNfkc), text);
}

// 200,000 marks, each pair in the wrong order: exchanging neighbours would take 10^10 steps.
TEST(NormalForm, ManyMarksTakeNoQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 100'000; ++i) text += "\u0301\u0323";
  const auto start = std::chrono::steady_clock::now();
  const std::string sorted = Normalize(text, NormalForm::kNfd);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(sorted.substr(0, 5), "a\u0323\u0323");
  EXPECT_EQ(sorted.size(), text.size());
}

}  // namespace
}  // namespace fiddler::text
