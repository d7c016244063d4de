// Reading JSON that came from outside: every error names the file and the field, what was expected and found.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace fiddler {

// Parses all of `text` as one JSON value; `source` (a file name) is for the error. Strict, because two
// readers of one file must not see two things: refuses a name that an object has twice, anything but white
// space after the value, a NUL anywhere, and objects and arrays nested more than 64 deep. Never recurses.
Json ParseJson(std::string_view text, std::string_view source);

// A value as one short line of ASCII, for errors: control characters escaped, cut after 80 characters.
std::string Printable(const Json& value);

}  // namespace fiddler
