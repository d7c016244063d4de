#include "base/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace fiddler {
namespace {

constexpr std::array<std::pair<std::string_view, double>, 5> kUnits = {
    {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}, {"", 1}}};

}  // namespace

uint64_t ParseBytes(std::string_view text, std::string_view what) {
  double number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix = text.substr(static_cast<size_t>(end - text.data()));
  if (status == std::errc() && number >= 0) {
    for (const auto& [unit, factor] : kUnits) {
      if (suffix == unit && number * factor < 0x1p63)
        return static_cast<uint64_t>(std::llround(number * factor));
    }
  }
  throw Error("{}: expected a size such as 24GiB, 512MiB or 4096, got '{}'", what, text);
}

std::string FormatBytes(uint64_t bytes) {
  for (const auto& [unit, factor] : kUnits) {
    if (!unit.empty() && static_cast<double>(bytes) >= factor) {
      return fmt::format("{:.1f} {}", static_cast<double>(bytes) / factor, unit);
    }
  }
  return fmt::format("{} B", bytes);
}

}  // namespace fiddler
