#include "text/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

using Codes = std::vector<utf8proc_int32_t>;

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
    constexpr int kLongest = 18;  // U+FDFA under NFKD
    utf8proc_int32_t parts[kLongest];
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.code), parts, kLongest, options, nullptr);
    CHECK(count >= 0 && count <= kLongest, "{} parts of U+{:04X}", count, static_cast<uint32_t>(c.code));
    codes.insert(codes.end(), parts, parts + count);
  }
  return codes;
}

// Canonical order: each run of combining marks sorted by class. utf8proc_map() exchanges neighbours instead,
// which takes quadratic time when a text is nothing but marks.
void Reorder(Codes& codes) {
  const auto class_of = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  const auto is_starter = [&](utf8proc_int32_t code) { return class_of(code) == 0; };
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if_not(begin, codes.end(), is_starter);
    const auto end = std::find_if(begin, codes.end(), is_starter);
    std::stable_sort(begin, end,
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return class_of(a) < class_of(b); });
    begin = end;
  }
}

void Compose(Codes& codes) {
  // U+11A7 composes with nothing, but utf8proc takes it for a Hangul final: it never gets to see it.
  constexpr utf8proc_int32_t kBeforeHangulFinals = 0x11A7;
  auto out = codes.begin();
  for (auto begin = codes.begin(); begin != codes.end();) {
    const auto end = std::find(begin, codes.end(), kBeforeHangulFinals);
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
