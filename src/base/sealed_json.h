// JSON files that Fiddler writes and reads again: an object that says what it is and carries a checksum, so
// that one that was cut short, edited or meant for something else is refused. People may read and reformat
// it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace fiddler {

// What a sealed file must say of itself.
struct JsonKind {
  std::string_view name;  // "fiddler expert popularity"
  int64_t version;
};

// The text of a file: the members of `content`, an object, and "kind", "version", "checksum". The checksum is
// FNV-1a of the rest written without white space, names in order. Broken UTF-8 is replaced.
std::string SealJson(const JsonKind& kind, const Json& content);

// The content. Throws Error naming source, field, expected and got.
Json UnsealJson(const JsonKind& kind, std::string_view text, std::string_view source);

}  // namespace fiddler
