#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "text/regex_syntax.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

struct FreeContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

template <typename T>
std::unique_ptr<T, FreeContext> Own(T* context) {
  CHECK(context != nullptr, "PCRE2 is out of memory");
  return std::unique_ptr<T, FreeContext>(context);
}

std::string Message(int code) {
  char text[256];
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof(text));
  return text;
}

// Backtracking steps for one match. Real patterns take a few per byte: a run of spaces is tried once by each
// alternative. A hostile pattern reaches any limit; with this one it does so within milliseconds.
uint32_t MatchLimit(size_t text_bytes) {
  constexpr size_t kBase = 100'000;
  constexpr size_t kPerByte = 16;
  constexpr size_t kMost = 1u << 31;
  return static_cast<uint32_t>(std::min(kBase + kPerByte * text_bytes, kMost));
}

}  // namespace

void Regex::FreeCode::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Regex::Regex(std::string_view pattern, std::string_view where) : pattern_(pattern) {
  constexpr size_t kMaxBytes = 64 << 10;
  if (pattern.size() > kMaxBytes)
    throw Error("{}: expected at most {} bytes of pattern, got {}", where, kMaxBytes, pattern.size());
  const std::string translated = ToPcre2Syntax(pattern, where);
  const auto context = Own(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always match at line breaks.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions,
                            &error, &offset, context.get()));
  if (!code_) throw Error("{}: expected a regular expression, got {} ({})", where, pattern, Message(error));
  compiled_to_machine_code_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
}

std::vector<Span> Regex::FindAll(std::string_view valid) const {
  std::vector<Span> matches;
  if (valid.empty()) return matches;
  const auto context = Own(pcre2_match_context_create(nullptr));
  const auto data = Own(pcre2_match_data_create(1, nullptr));
  pcre2_set_match_limit(context.get(), MatchLimit(valid.size()));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(valid.data());
  const auto match_from = [&](size_t start) {
    int status = PCRE2_ERROR_JIT_STACKLIMIT;
    if (compiled_to_machine_code_) {
      status = pcre2_jit_match(code_.get(), subject, valid.size(), start, 0, data.get(), context.get());
    }
    if (status == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter has no such limit
      constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT;
      status = pcre2_match(code_.get(), subject, valid.size(), start, kOptions, data.get(), context.get());
    }
    return status;
  };

  size_t start = 0;
  while (start <= valid.size()) {
    const int status = match_from(start);
    if (status == PCRE2_ERROR_NOMATCH) break;
    if (status < 0) {
      throw Error("regular expression {} of the tokenizer: expected to match {} bytes of text, got: {}",
                  pattern_, valid.size(), Message(status));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    const Span match{bounds[0], bounds[1]};
    const bool is_empty = match.begin == match.end;
    if (is_empty && !matches.empty() && matches.back().end == match.end) {
      start += start < valid.size() ? DecodeAt(valid, start).bytes : 1;
      continue;
    }
    matches.push_back(match);
    start = match.end;
  }
  return matches;
}

Pattern::Pattern(const JsonField& field) : matcher_(std::string()) {
  field.RefuseOthersThan({"String", "Regex"});
  const std::optional<JsonField> literal = field.Find("String");
  const std::optional<JsonField> regex = field.Find("Regex");
  if (literal.has_value() == regex.has_value()) field.Fail("either a String or a Regex");
  if (regex) {
    matcher_ = Regex(regex->String(), regex->Where());
  } else {
    matcher_ = literal->String();
    if (literal->String().empty()) literal->Fail("a string that is not empty");
  }
}

std::vector<Span> Pattern::FindAll(std::string_view valid) const {
  if (const auto* regex = std::get_if<Regex>(&matcher_)) return regex->FindAll(valid);
  const std::string& literal = std::get<std::string>(matcher_);
  std::vector<Span> matches;
  for (size_t at = valid.find(literal); at != std::string_view::npos;
       at = valid.find(literal, at + literal.size())) {
    matches.push_back({at, at + literal.size()});
  }
  return matches;
}

std::string ReplaceAll(std::string_view text, const std::vector<Span>& matches, std::string_view content) {
  std::string replaced;
  replaced.reserve(text.size());
  size_t copied = 0;
  for (const Span& match : matches) {
    replaced.append(text.substr(copied, match.begin - copied)).append(content);
    copied = match.end;
  }
  return replaced.append(text.substr(copied));
}

}  // namespace fiddler::text
