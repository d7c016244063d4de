#include "io/strict_json.h"

#include <unordered_set>
#include <vector>

#include "base/error.h"

namespace fiddler {

Json ParseStrictJson(std::string_view text, std::string_view source) {
  constexpr int kMaxDepth = 64;
  if (const size_t nul = text.find('\0');
      nul != std::string_view::npos) {  // the parser would take it for the end
    throw Error("{}: expected JSON, got a NUL at byte {}", source, nul + 1);
  }
  std::vector<std::unordered_set<std::string>> open_objects;  // the keys seen so far in each
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) {
      throw Error("{}: expected JSON nested at most {} deep, got more", source, kMaxDepth);
    }
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key &&
        !open_objects.back().insert(parsed.get_ref<std::string&>()).second) {
      throw Error("{}: expected every name once, got {} twice", source, Printable(parsed));
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::parse_error& error) {
    throw Error("{}: expected JSON, got a syntax error at byte {}", source, error.byte);
  } catch (const Json::out_of_range&) {  // such as 1e999
    throw Error("{}: expected JSON, got a number too large to represent", source);
  }
}

std::string Printable(const Json& value) {
  constexpr size_t kMaxLength = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxLength) text = text.substr(0, kMaxLength) + "...";
  return text;
}

}  // namespace fiddler
