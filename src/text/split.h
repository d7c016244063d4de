// Cutting a text at the matches of a pattern, with the five treatments of the delimiter that tokenizer.json
// knows.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace fiddler::text {

struct Span {  // bytes [begin, end) of a text
  size_t begin;
  size_t end;

  bool operator==(const Span&) const = default;
};

inline std::string_view At(std::string_view text, Span span) {
  return text.substr(span.begin, span.end - span.begin);
}

enum class SplitBehavior {  // "the-final--countdown" cut at "-":
  kRemoved,                 // the | final | countdown
  kIsolated,                // the | - | final | - | - | countdown
  kMergedWithPrevious,      // the- | final- | - | countdown
  kMergedWithNext,          // the | -final | - | -countdown
  kContiguous,              // the | - | final | -- | countdown
};

// `matches` are disjoint and in order, within [0, size). If `invert`, what lies between them is the
// delimiter. The parts come in order; empty ones are left out.
std::vector<Span> SplitAt(std::span<const Span> matches, size_t size, SplitBehavior behavior,
                          bool invert = false);

}  // namespace fiddler::text
