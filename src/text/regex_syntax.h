// Hugging Face tokenizers matches with Oniguruma, Fiddler with PCRE2. The two agree on most of what tokenizer
// files use, but not on everything: \s and \w name different sets, \h and \v different things, [a[b]] and
// [a&&b] are set operations in one and literals in the other. This translates what can be said in PCRE2 and
// refuses the rest, so that no pattern silently means something else.
#pragma once

#include <string>
#include <string_view>

namespace fiddler::text {

// The PCRE2 pattern (options UTF, MULTILINE; newline is LF) that matches what `oniguruma` matches in Ruby
// syntax. Throws Error saying which construct is not supported; `where` opens its message.
std::string ToPcre2Syntax(std::string_view oniguruma, std::string_view where);

}  // namespace fiddler::text
