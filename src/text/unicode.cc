#include "text/unicode.h"

#include <utf8proc.h>

namespace fiddler::text {
namespace {

uint8_t ByteAt(std::string_view text, size_t position) { return static_cast<uint8_t>(text[position]); }

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

enum class Form { kValid, kInvalid, kCutOff };
struct Sequence {
  Form form;
  size_t bytes;  // of the character, or of the maximal ill-formed run
};

// Looks at the first character of `bytes`, which is not empty. Table 3-7 of the Unicode standard: the lead
// byte says how many bytes follow, and narrows the range of the second one.
Sequence FirstSequence(std::string_view bytes) {
  const uint8_t lead = ByteAt(bytes, 0);
  if (lead < 0x80) return {Form::kValid, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Form::kInvalid, 1};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const uint8_t lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Form::kCutOff, i};
    const uint8_t byte = ByteAt(bytes, i);
    const bool fits = i == 1 ? byte >= lowest && byte <= highest : IsContinuation(byte);
    if (!fits) return {Form::kInvalid, i};
  }
  return {Form::kValid, length};
}

utf8proc_category_t Category(char32_t code) {
  return static_cast<utf8proc_category_t>(
      utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->category);
}

// Characters of category So that are Alphabetic all the same: circled and squared letters.
bool IsEnclosedLetter(char32_t code) {
  return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
         (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
}

}  // namespace

Utf8Char DecodeAt(std::string_view valid, size_t position) {
  const uint8_t lead = ByteAt(valid, position);
  if (lead < 0x80) return {lead, 1};
  const auto low_bits = [&](size_t i) { return static_cast<char32_t>(ByteAt(valid, position + i) & 0x3F); };
  if (lead < 0xE0) return {(lead & 0x1Fu) << 6 | low_bits(1), 2};
  if (lead < 0xF0) return {(lead & 0x0Fu) << 12 | low_bits(1) << 6 | low_bits(2), 3};
  return {(lead & 0x07u) << 18 | low_bits(1) << 12 | low_bits(2) << 6 | low_bits(3), 4};
}

Utf8Char DecodeLast(std::string_view valid) {
  size_t begin = valid.size() - 1;
  while (IsContinuation(ByteAt(valid, begin))) --begin;
  return DecodeAt(valid, begin);
}

void AppendUtf8(char32_t code, std::string& out) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    push(code);
  } else if (code < 0x800) {
    push(0xC0 | code >> 6);
    push(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    push(0xE0 | code >> 12);
    push(0x80 | (code >> 6 & 0x3F));
    push(0x80 | (code & 0x3F));
  } else {
    push(0xF0 | code >> 18);
    push(0x80 | (code >> 12 & 0x3F));
    push(0x80 | (code >> 6 & 0x3F));
    push(0x80 | (code & 0x3F));
  }
}

bool IsValidUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Sequence sequence = FirstSequence(bytes);
    if (sequence.form != Form::kValid) return false;
    bytes.remove_prefix(sequence.bytes);
  }
  return true;
}

size_t DecodeLossy(std::string_view bytes, bool complete, std::string& out) {
  size_t position = 0;
  size_t copied = 0;  // bytes[copied, position) is valid and not yet in `out`
  while (position < bytes.size()) {
    const Sequence sequence = FirstSequence(bytes.substr(position));
    if (sequence.form == Form::kCutOff && !complete) break;
    if (sequence.form != Form::kValid) {
      out.append(bytes.substr(copied, position - copied)).append(kReplacementCharacter);
      copied = position + sequence.bytes;
    }
    position += sequence.bytes;
  }
  out.append(bytes.substr(copied, position - copied));
  return position;
}

bool IsWhitespace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool IsNumeric(char32_t code) {
  const utf8proc_category_t category = Category(code);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPunctuation(char32_t code) {
  if (code < 0x80) return code > 0x20 && code < 0x7F && Category(code) >= UTF8PROC_CATEGORY_PC;
  const utf8proc_category_t category = Category(code);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsWord(char32_t code) {
  const utf8proc_category_t category = Category(code);
  const bool letter_mark_digit = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL;
  const bool join_control = code == 0x200C || code == 0x200D;
  return letter_mark_digit || category == UTF8PROC_CATEGORY_PC || join_control || IsEnclosedLetter(code);
}

std::string Lowercase(std::string_view valid) {
  constexpr char32_t kCapitalIWithDot = 0x130;  // the only letter whose lower case is two characters
  std::string lower;
  lower.reserve(valid.size());
  for (size_t position = 0; position < valid.size();) {
    const Utf8Char c = DecodeAt(valid, position);
    position += c.bytes;
    if (c.code == kCapitalIWithDot) {
      lower.append("i\u0307");
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))), lower);
    }
  }
  return lower;
}

}  // namespace fiddler::text
