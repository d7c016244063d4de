#include "text/regex_syntax.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/error.h"
#include "text/unicode.h"
#include "text/unicode_16.h"

namespace fiddler::text {
namespace {

// White_Space, and its complement as ranges so that it can stand inside a class. (PCRE2's \s adds U+180E.)
constexpr std::string_view kSpace = R"(\x09-\x0d\x{85}\p{Z})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
// What \w matches besides letters, marks, decimal digits, numbers that are letters, and connectors: letters
// in circles and squares and, in Oniguruma only, the superscripts and fractions of Latin-1.
constexpr std::string_view kOtherWord =
    R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

constexpr std::array<std::string_view, 37> kGeneralCategories = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
    "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
    "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

// The characters of a category of Unicode 16, to stand inside a class.
std::string CategorySet(std::string_view category) {
  std::string set = fmt::format("\\p{{{}}}", category);
  for (const CategoryRange& range : kAddedSinceUnicode14) {
    if (!range.category.starts_with(category)) continue;
    set += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<uint32_t>(range.first),
                       static_cast<uint32_t>(range.last));
  }
  return set;
}

std::string WordSet() {
  std::string set(kOtherWord);
  for (const std::string_view category : {"L", "M", "Nd", "Nl", "Pc"}) set += CategorySet(category);
  return set;
}

bool IsAsciiLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }
bool IsHexDigit(char c) { return IsAsciiDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : rest_(pattern), where_(where) {}

  std::string Run() {
    if (Take("(?i)")) out_ += "(?i)";  // elsewhere its reach differs
    while (!rest_.empty()) {
      if (rest_.front() == '\\') {
        Escape(/*in_class=*/false);
      } else if (rest_.front() == '[') {
        Class();
      } else if (rest_.front() == '(') {
        Group();
      } else if (rest_.front() == '{') {
        Interval();
      } else {
        Copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void Refuse(std::string_view construct) const {
    throw Error("{}: expected a regular expression without {}, got one", where_, construct);
  }

  bool Take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  void Copy(size_t bytes) {
    out_ += rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
  }

  // An escape that starts rest_.
  void Escape(bool in_class) {
    if (rest_.size() < 2) Refuse("a backslash at the end");
    const char c = rest_[1];
    const auto replace_by = [&](std::string_view set, bool negated) {
      if (in_class && negated) Refuse(fmt::format("\\{} inside [...]", c));
      AppendSet(set, negated, in_class);
      rest_.remove_prefix(2);
    };
    switch (c) {
      case 's':
        return replace_by(kSpace, false);
      case 'S':
        return replace_by(kNotSpace, false);
      case 'w':
        return replace_by(WordSet(), false);
      case 'W':
        return replace_by(WordSet(), true);
      case 'd':
        return replace_by(CategorySet("Nd"), false);
      case 'D':
        return replace_by(CategorySet("Nd"), true);
      case 'v':
        return replace_by(R"(\x0b)", false);
      case 'p':
      case 'P':
        return Property(in_class);
      case 'x':
      case 'u':
        return CodePoint();
      case 'n':
      case 'r':
      case 't':
      case 'f':
        return Copy(2);
      case 'A':
      case 'z':
      case 'Z':
        if (in_class) Refuse(fmt::format("\\{} inside [...]", c));
        return Copy(2);
      default:
        if (IsAsciiLetter(c) || IsAsciiDigit(c)) Refuse(fmt::format("\\{}", c));
        return Copy(1 + DecodeAt(rest_, 1).bytes);
    }
  }

  void AppendSet(std::string_view set, bool negated, bool in_class) {
    if (in_class) {
      out_ += set;
    } else {
      out_.append(negated ? "[^" : "[").append(set).append("]");
    }
  }

  // \p{L}, \P{L}, \p{^L}: general categories only; scripts mean other sets in the two libraries.
  void Property(bool in_class) {
    const size_t close = rest_.find('}');
    if (rest_.size() < 3 || rest_[2] != '{' || close == std::string_view::npos) Refuse("\\p without {...}");
    std::string_view name = rest_.substr(3, close - 3);
    bool negated = rest_[1] == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool known =
        std::find(kGeneralCategories.begin(), kGeneralCategories.end(), name) != kGeneralCategories.end();
    if (!known) Refuse(fmt::format("\\p{{{}}}", name));
    rest_.remove_prefix(close + 1);
    // No class can say "all but these" within a set of others, nor "not yet assigned" in Unicode 16: there,
    // PCRE2's own version of Unicode decides.
    const bool inexpressible = (in_class && negated) || name.starts_with('C');
    if (inexpressible) {
      out_ += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name);
    } else {
      AppendSet(CategorySet(name), negated, in_class);
    }
  }

  // \xHH, \x{H...}, \uHHHH: at most four digits without braces.
  void CodePoint() {
    const bool is_x = rest_[1] == 'x';
    const bool braces = is_x && rest_.size() > 2 && rest_[2] == '{';
    const size_t begin = braces ? 3 : 2;
    const size_t most = braces ? 6 : is_x ? 2 : 4;
    size_t digits = 0;
    while (digits < most && begin + digits < rest_.size() && IsHexDigit(rest_[begin + digits])) ++digits;
    const bool closed = !braces || (begin + digits < rest_.size() && rest_[begin + digits] == '}');
    if (digits == 0 || !closed || (!braces && digits != most)) Refuse("an incomplete \\x or \\u");
    out_.append("\\x{").append(rest_.substr(begin, digits)).append("}");
    rest_.remove_prefix(begin + digits + (braces ? 1 : 0));
  }

  void Class() {
    Copy(1);
    if (rest_.starts_with('^')) Copy(1);
    if (rest_.starts_with(']')) Refuse("[] or [^]");
    while (!rest_.starts_with(']')) {
      if (rest_.empty()) Refuse("an open [");
      if (rest_.starts_with('[')) Refuse("[ inside [...]");
      if (rest_.starts_with("&&")) Refuse("&& inside [...]");
      if (rest_.front() == '\\') {
        Escape(/*in_class=*/true);
      } else {
        Copy(1);
      }
    }
    Copy(1);
  }

  void Group() {
    if (rest_.starts_with("(*")) Refuse("(*");
    if (!rest_.starts_with("(?")) return Copy(1);
    constexpr std::array<std::string_view, 8> kSame = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    for (const std::string_view opening : kSame) {
      if (rest_.starts_with(opening)) return Copy(opening.size());
    }
    Refuse(rest_.substr(0, 3));
  }

  // {2}, {2,}, {2,5}. A + or ? after an interval has another meaning in Ruby syntax.
  void Interval() {
    size_t end = 1;
    while (end < rest_.size() && IsAsciiDigit(rest_[end])) ++end;
    const bool has_lower = end > 1;
    if (end < rest_.size() && rest_[end] == ',') {
      ++end;
      while (end < rest_.size() && IsAsciiDigit(rest_[end])) ++end;
    }
    const bool is_interval = end < rest_.size() && rest_[end] == '}' && end > 1;
    if (!is_interval) return Copy(1);  // a literal brace in both
    if (!has_lower) Refuse("{,n}");
    Copy(end + 1);
    if (rest_.starts_with('+') || rest_.starts_with('?')) Refuse("+ or ? after {...}");
  }

  std::string_view rest_;
  std::string_view where_;
  std::string out_;
};

}  // namespace

std::string ToPcre2Syntax(std::string_view oniguruma, std::string_view where) {
  return Translator(oniguruma, where).Run();
}

}  // namespace fiddler::text
