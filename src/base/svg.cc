#include "base/svg.h"

#include <fmt/format.h>

#include "base/json.h"

namespace fiddler {
namespace {

std::string ValidUtf8(std::string_view text) {
  // The JSON library replaces what is not UTF-8 when it writes, and reads that back.
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

std::string_view AnchorName(SvgWriter::Anchor anchor) {
  switch (anchor) {
    case SvgWriter::Anchor::kStart:
      return "start";
    case SvgWriter::Anchor::kMiddle:
      return "middle";
    case SvgWriter::Anchor::kEnd:
      return "end";
  }
  __builtin_unreachable();
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  const std::string valid = ValidUtf8(text);
  std::string escaped;
  for (size_t i = 0; i < valid.size(); ++i) {
    const char c = valid[i];
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (static_cast<unsigned char>(c) < ' ') {
      escaped += ' ';  // most are forbidden, the others are white space
    } else if (const auto next = std::string_view(valid).substr(i, 3);
               next == "\xEF\xBF\xBE" || next == "\xEF\xBF\xBF") {
      escaped += '?';  // U+FFFE and U+FFFF
      i += 2;
    } else {
      escaped += c;
    }
  }
  return escaped;
}

SvgWriter::SvgWriter(double width, double height, std::string_view title, std::string_view description) {
  text_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n<desc>{}</desc>\n",
      width, height, EscapeXml(title), EscapeXml(description));
  Rect({0, 0}, width, height, "#ffffff");
}

void SvgWriter::Rect(Point corner, double width, double height, std::string_view colour) {
  text_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n",
                       corner.x, corner.y, width, height, colour);
}

void SvgWriter::Line(Point from, Point to, std::string_view colour) {
  text_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n",
                       from.x, from.y, to.x, to.y, colour);
}

void SvgWriter::Polyline(std::span<const Point> points, std::string_view colour, std::string_view dash) {
  std::string path;
  for (const Point& point : points)
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", point.x, point.y);
  text_ += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", path,
                       colour, dash.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", dash));
}

void SvgWriter::Circle(Point centre, double radius, std::string_view colour) {
  text_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:g}\" fill=\"{}\"/>\n", centre.x, centre.y,
                       radius, colour);
}

void SvgWriter::Text(Point at, std::string_view text, Anchor anchor, double size, std::string_view colour) {
  text_ += fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{:g}\" fill=\"{}\">{}</text>\n", at.x,
      at.y, AnchorName(anchor), size, colour, EscapeXml(text));
}

void SvgWriter::UpwardText(Point at, std::string_view text) {
  text_ += fmt::format(
      "<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" text-anchor=\"middle\" "
      "fill=\"#333333\">{}</text>\n",
      at.x, at.y, EscapeXml(text));
}

std::string SvgWriter::Finish() {
  text_ += "</svg>\n";
  return std::move(text_);
}

}  // namespace fiddler
