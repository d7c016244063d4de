// The four Unicode normalization forms (UAX #15), as of Unicode 9 like in Hugging Face. Pure, safe from any
// thread.
#pragma once

#include <string>
#include <string_view>

namespace fiddler::text {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Linear in the length of the text but for runs of combining marks, which are sorted.
std::string Normalize(std::string_view valid, NormalForm form);

}  // namespace fiddler::text
