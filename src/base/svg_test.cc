#include "base/svg.h"

#include <gtest/gtest.h>

namespace fiddler {
namespace {

TEST(SvgTest, TextIsEscaped) {
  EXPECT_EQ(EscapeXml("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
  EXPECT_EQ(EscapeXml("\u00e9\u4e2d\U0001F600"), "\u00e9\u4e2d\U0001F600");
}

TEST(SvgTest, WhatXmlForbidsIsReplaced) {
  EXPECT_EQ(EscapeXml(std::string_view("a\0b\x1f\n", 5)), "a b  ");
  EXPECT_EQ(EscapeXml("\xff\xc3"), "\uFFFD\uFFFD");                      // no UTF-8
  EXPECT_EQ(EscapeXml("\xed\xa0\x80").find('\xed'), std::string::npos);  // a surrogate
  EXPECT_EQ(EscapeXml("a\xEF\xBF\xBE\xEF\xBF\xBF\xEF\xBF\xBD"), "a??\uFFFD");
}

TEST(SvgTest, ShapesInOrder) {
  SvgWriter svg(100, 50, "t<", "d&");
  svg.Text({1, 2}, "x<y", SvgWriter::Anchor::kEnd, 9, "#000000");
  const SvgWriter::Point points[] = {{0, 0}, {1.25, 2}};
  svg.Polyline(points, "#112233", "4 4");
  const std::string text = svg.Finish();
  EXPECT_NE(text.find("<title>t&lt;</title>\n<desc>d&amp;</desc>"), std::string::npos) << text;
  EXPECT_NE(text.find(">x&lt;y</text>\n<polyline points=\"0.0,0.0 1.2,2.0\""), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace fiddler
