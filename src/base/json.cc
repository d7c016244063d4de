#include "base/json.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace fiddler {

std::string ReadFile(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code status;
  const bool is_file = std::filesystem::is_regular_file(path, status);
  if (status || !is_file) {
    throw Error("{}: expected a file, got {}", path.string(), status ? status.message() : "something else");
  }
  const uintmax_t bytes = std::filesystem::file_size(path, status);
  if (status) throw Error("{}: cannot read its size: {}", path.string(), status.message());
  if (bytes > max_bytes)
    throw Error("{}: expected at most {} bytes, got {}", path.string(), max_bytes, bytes);
  std::string text(bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error("{}: cannot open: {}", path.string(), std::strerror(errno));
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  if (file.gcount() != static_cast<std::streamsize>(bytes)) {
    throw Error("{}: expected {} bytes, got {}", path.string(), bytes, file.gcount());
  }
  return text;
}

Json ParseJson(std::string_view text, std::string_view source) {
  constexpr int kMaxDepth = 64;
  bool too_deep = false;
  const auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) too_deep = true;
    return !too_deep;
  };
  try {
    Json json = Json::parse(text, watch_depth);
    if (too_deep) throw Error("{}: expected JSON nested at most {} deep, got more", source, kMaxDepth);
    return json;
  } catch (const Json::parse_error& error) {
    throw Error("{}: expected JSON, got a syntax error at byte {}", source, error.byte);
  } catch (const Json::out_of_range&) {  // such as 1e999
    throw Error("{}: expected JSON, got a number too large to represent", source);
  }
}

}  // namespace fiddler
