// The byte-level alphabet of GPT-2: every byte has a printable character, so that any text is a string over
// 256 characters. Printable Latin-1 stands for itself, the other bytes take U+0100, U+0101, ... in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fiddler::text {

// Appends the characters that stand for the bytes of `bytes`.
void AppendByteLevel(std::string_view bytes, std::string& out);

// The bytes a token stands for; nothing if it has a character outside the alphabet.
std::optional<std::string> FromByteLevel(std::string_view token);

}  // namespace fiddler::text
