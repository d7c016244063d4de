#include "text/split.h"

#include <gtest/gtest.h>

#include <string>

namespace fiddler::text {
namespace {

// The parts joined by "|".
std::string Split(std::string_view text, SplitBehavior behavior, bool invert = false) {
  std::vector<Span> matches;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '-') matches.push_back({i, i + 1});
  }
  std::string joined;
  for (const Span& part : SplitAt(matches, text.size(), behavior, invert)) {
    if (!joined.empty()) joined += '|';
    joined += At(text, part);
  }
  return joined;
}

TEST(Split, TheFiveBehaviors) {
  constexpr std::string_view kText = "the-final--countdown";
  EXPECT_EQ(Split(kText, SplitBehavior::kRemoved), "the|final|countdown");
  EXPECT_EQ(Split(kText, SplitBehavior::kIsolated), "the|-|final|-|-|countdown");
  EXPECT_EQ(Split(kText, SplitBehavior::kMergedWithPrevious), "the-|final-|-|countdown");
  EXPECT_EQ(Split(kText, SplitBehavior::kMergedWithNext), "the|-final|-|-countdown");
  EXPECT_EQ(Split(kText, SplitBehavior::kContiguous), "the|-|final|--|countdown");
}

TEST(Split, AtTheEnds) {
  EXPECT_EQ(Split("-a-", SplitBehavior::kMergedWithPrevious), "-|a-");
  EXPECT_EQ(Split("-a-", SplitBehavior::kMergedWithNext), "-a|-");
  EXPECT_EQ(Split("--", SplitBehavior::kRemoved), "");
  EXPECT_EQ(Split("", SplitBehavior::kIsolated), "");
  EXPECT_EQ(Split("a", SplitBehavior::kIsolated), "a");
}

TEST(Split, InvertedTheMatchesAreKept) {
  EXPECT_EQ(Split("a-b--c", SplitBehavior::kRemoved, true), "-|-|-");
  EXPECT_EQ(Split("a-b", SplitBehavior::kMergedWithPrevious, true), "a|-b");
}

TEST(Split, EmptyMatchesCutButLeaveNoPart) {
  const std::vector<Span> matches = {{0, 0}, {1, 1}, {2, 2}};
  const std::vector<Span> expected = {{0, 1}, {1, 2}};
  EXPECT_EQ(SplitAt(matches, 2, SplitBehavior::kIsolated), expected);
}

}  // namespace
}  // namespace fiddler::text
