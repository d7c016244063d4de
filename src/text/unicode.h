// UTF-8, and the Unicode properties that tokenizers ask for. "Valid" text below means well-formed UTF-8;
// functions that take it do not check. Pure functions, safe from any thread.
//
// The properties follow Rust's standard library and crates, which Hugging Face uses. Rust knows a newer
// Unicode than utf8proc; only characters assigned since then differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fiddler::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Char {
  char32_t code;
  size_t bytes;
};
Utf8Char DecodeAt(std::string_view valid,
                  size_t position);           // position < size, at the first byte of a character
Utf8Char DecodeLast(std::string_view valid);  // of a text that is not empty
void AppendUtf8(char32_t code, std::string& out);

bool IsValidUtf8(std::string_view bytes);

// Decodes as much of `bytes` as is certain, appending to `out` and putting U+FFFD for each maximal ill-formed
// run. Unless `complete`, a character cut off at the end is left. Returns the number of bytes used.
size_t DecodeLossy(std::string_view bytes, bool complete, std::string& out);

bool IsWhitespace(char32_t code);   // property White_Space
bool IsNumeric(char32_t code);      // categories Nd, Nl, No
bool IsPunctuation(char32_t code);  // categories P*, and all ASCII punctuation such as $ + <
bool IsWord(char32_t code);         // \w of UTS #18: Alphabetic, M, Nd, Pc, Join_Control

std::string Lowercase(std::string_view valid);  // character by character, so no final sigma

}  // namespace fiddler::text
