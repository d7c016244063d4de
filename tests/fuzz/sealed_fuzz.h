// What fuzz targets of sealed JSON files (base/sealed_json.h) share.
#pragma once

#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/sealed_json.h"

namespace fiddler {

inline void CheckMessage(std::string_view message) {
  CHECK(message.starts_with("input: "), "{}", message);
  for (const char c : message) CHECK(c >= ' ' && c <= '~', "not one line of ASCII: {}", message);
  CHECK(message.find("expected") != std::string::npos && message.find("got") != std::string::npos, "{}",
        message);
}

// Nearly every mutation breaks the checksum: the same members with the right one. What is no object stays.
inline std::string SealedAnew(const JsonKind& kind, std::string_view file) {
  try {
    Json json = ParseJson(file, "input");
    if (!json.is_object()) return std::string(file);
    for (const char* seal : {"kind", "version", "checksum"}) json.erase(seal);
    return SealJson(kind, json);
  } catch (const Error&) {
    return std::string(file);
  }
}

}  // namespace fiddler
