#include "text/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "base/check.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

using Codes = std::vector<utf8proc_int32_t>;

// Hugging Face normalizes with the tables of Unicode 9. Characters that got a decomposition, a combining
// class or a composition later stay as they are there, and so here.
struct CodeRange {
  utf8proc_int32_t first;
  utf8proc_int32_t last;
};
constexpr CodeRange kUnknownToUnicode9[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x105C9, 0x105C9},
    {0x105E4, 0x105E4}, {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27},
    {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11383, 0x11383}, {0x11385, 0x11385}, {0x1138E, 0x1138E},
    {0x11391, 0x11391}, {0x113C5, 0x113C5}, {0x113C7, 0x113C8}, {0x113CE, 0x113D0}, {0x113E1, 0x113E2},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16121, 0x16128},
    {0x1612F, 0x1612F}, {0x16D68, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    {0x1E5EE, 0x1E5EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool IsKnown(utf8proc_int32_t code) {
  const auto* const range = std::partition_point(std::begin(kUnknownToUnicode9), std::end(kUnknownToUnicode9),
                                                 [&](const CodeRange& before) { return before.last < code; });
  return range == std::end(kUnknownToUnicode9) || code < range->first;
}

bool Composes(NormalForm form) { return form == NormalForm::kNfc || form == NormalForm::kNfkc; }
bool IsCompatible(NormalForm form) { return form == NormalForm::kNfkc || form == NormalForm::kNfkd; }

// Nothing below U+0300 changes under NFC, and no ASCII under any form.
bool IsNormalizedAtAGlance(std::string_view valid, NormalForm form) {
  constexpr uint8_t kLeadByteOfU0300 = 0xCC;
  const uint8_t first_unsure = form == NormalForm::kNfc ? kLeadByteOfU0300 : 0x80;
  return std::all_of(valid.begin(), valid.end(),
                     [&](char byte) { return static_cast<uint8_t>(byte) < first_unsure; });
}

Codes Decompose(std::string_view valid, bool compatible) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  Codes codes;
  codes.reserve(valid.size());
  for (size_t position = 0; position < valid.size();) {
    const Utf8Char c = DecodeAt(valid, position);
    position += c.bytes;
    const auto code = static_cast<utf8proc_int32_t>(c.code);
    if (!IsKnown(code)) {
      codes.push_back(code);
      continue;
    }
    constexpr int kLongest = 18;  // U+FDFA under NFKD
    utf8proc_int32_t parts[kLongest];
    const utf8proc_ssize_t count = utf8proc_decompose_char(code, parts, kLongest, options, nullptr);
    CHECK(count >= 0 && count <= kLongest, "{} parts of U+{:04X}", count, code);
    codes.insert(codes.end(), parts, parts + count);
  }
  return codes;
}

// Canonical order: each run of combining marks sorted by class. utf8proc_map() exchanges neighbours instead,
// which takes quadratic time when a text is nothing but marks.
void Reorder(Codes& codes) {
  const auto class_of = [](utf8proc_int32_t code) {
    return IsKnown(code) ? utf8proc_get_property(code)->combining_class : 0;
  };
  const auto is_starter = [&](utf8proc_int32_t code) { return class_of(code) == 0; };
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if_not(begin, codes.end(), is_starter);
    const auto end = std::find_if(begin, codes.end(), is_starter);
    std::stable_sort(begin, end,
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return class_of(a) < class_of(b); });
    begin = end;
  }
}

// Composes between the characters that compose with nothing, which utf8proc never gets to see: it would take
// U+11A7 for a Hangul final.
void Compose(Codes& codes) {
  constexpr utf8proc_int32_t kBeforeHangulFinals = 0x11A7;
  const auto is_inert = [](utf8proc_int32_t code) { return code == kBeforeHangulFinals || !IsKnown(code); };
  auto out = codes.begin();
  for (auto begin = codes.begin(); begin != codes.end();) {
    const auto end = std::find_if(begin, codes.end(), is_inert);
    const utf8proc_ssize_t length = utf8proc_normalize_utf32(
        &*begin, end - begin, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    CHECK(length >= 0 && length <= end - begin, "utf8proc: {}", utf8proc_errmsg(length));
    out = std::copy(begin, begin + length, out);
    begin = end;
    if (begin != codes.end()) *out++ = *begin++;
  }
  codes.erase(out, codes.end());
}

}  // namespace

std::string Normalize(std::string_view valid, NormalForm form) {
  if (IsNormalizedAtAGlance(valid, form)) return std::string(valid);
  Codes codes = Decompose(valid, IsCompatible(form));
  Reorder(codes);
  if (Composes(form)) Compose(codes);
  std::string normalized;
  normalized.reserve(valid.size());
  for (const utf8proc_int32_t code : codes) AppendUtf8(static_cast<char32_t>(code), normalized);
  return normalized;
}

}  // namespace fiddler::text
