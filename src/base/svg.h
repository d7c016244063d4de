// Writes charts as SVG: a handful of shapes on a white page, as text. Coordinates in pixels, y down.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace fiddler {

// Text as XML can hold it: markup escaped, broken UTF-8 and characters that XML forbids replaced.
std::string EscapeXml(std::string_view text);

class SvgWriter {
 public:
  struct Point {
    double x = 0;
    double y = 0;
  };
  enum class Anchor { kStart, kMiddle, kEnd };

  // `title` and `description` are for screen readers and tooltips; both may be any bytes.
  SvgWriter(double width, double height, std::string_view title, std::string_view description);

  // `colour`: as SVG spells them, "#1f6feb". `dash`: lengths, "4 4"; empty: solid.
  void Rect(Point corner, double width, double height, std::string_view colour);
  void Line(Point from, Point to, std::string_view colour);
  void Polyline(std::span<const Point> points, std::string_view colour, std::string_view dash = "");
  void Circle(Point centre, double radius, std::string_view colour);
  void Text(Point at, std::string_view text, Anchor anchor = Anchor::kStart, double size = 12,
            std::string_view colour = "#333333");
  void UpwardText(Point at, std::string_view text);  // turned left, around its middle

  // The document. Nothing may be drawn after it.
  std::string Finish();

 private:
  std::string text_;
};

}  // namespace fiddler
