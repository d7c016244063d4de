// A regular expression as tokenizer.json files use them, and Pattern: such an expression or a plain string.
// Immutable after construction, safe from any number of threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/json_field.h"
#include "text/split.h"

struct pcre2_real_code_8;

namespace fiddler::text {

class Regex {
 public:
  // `pattern` in Oniguruma's syntax (regex_syntax.h); `where` opens the message of the Error it may throw.
  Regex(std::string_view pattern, std::string_view where);

  // All matches from left to right in a valid text. An empty match right after another match does not count.
  // Throws Error if the expression needs an unreasonable number of steps: a hostile one cannot hang the
  // process.
  std::vector<Span> FindAll(std::string_view valid) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::string pattern_;
  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
  bool compiled_to_machine_code_ = false;
};

class Pattern {
 public:
  explicit Pattern(const JsonField& field);  // {"String": "..."} or {"Regex": "..."}

  std::vector<Span> FindAll(std::string_view valid) const;

 private:
  std::variant<std::string, Regex> matcher_;
};

// `text` with `content` in the place of every match.
std::string ReplaceAll(std::string_view text, const std::vector<Span>& matches, std::string_view content);

}  // namespace fiddler::text
