// JSON in weight files, where a name given twice is an attack or a broken writer, never a choice.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace fiddler {

// As ParseJson (base/json.h), and a key that appears twice in one object is an Error too.
Json ParseStrictJson(std::string_view text, std::string_view source);

// A value as one short line of ASCII, for errors: control characters escaped, cut after 80 characters.
std::string Printable(const Json& value);

}  // namespace fiddler
