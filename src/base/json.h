// Reading JSON that came from outside: every error names the file and the field, what was expected and found.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace fiddler {

// Reads a whole file. Throws Error if it cannot be read or is larger than max_bytes.
std::string ReadFile(const std::filesystem::path& path, size_t max_bytes);

// Parses text as JSON; `source` (a file name) is for the error. Nesting deeper than 64 is refused.
Json ParseJson(std::string_view text, std::string_view source);

}  // namespace fiddler
