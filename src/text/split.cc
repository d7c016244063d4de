#include "text/split.h"

#include <algorithm>

namespace fiddler::text {
namespace {

struct Part {
  Span span;
  bool is_delimiter;
};

// The matches and what lies between them.
std::vector<Part> Cover(std::span<const Span> matches, size_t size, bool invert) {
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  size_t covered = 0;
  for (const Span& match : matches) {
    if (covered != match.begin) parts.push_back({{covered, match.begin}, invert});
    parts.push_back({match, !invert});
    covered = match.end;
  }
  if (covered != size) parts.push_back({{covered, size}, invert});
  return parts;
}

}  // namespace

std::vector<Span> SplitAt(std::span<const Span> matches, size_t size, SplitBehavior behavior, bool invert) {
  std::vector<Part> parts = Cover(matches, size, invert);
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());

  std::vector<Span> spans;
  spans.reserve(parts.size());
  bool after_delimiter = false;
  for (const auto& [span, is_delimiter] : parts) {
    bool joins = false;  // the part before it (after it, when going backwards)
    switch (behavior) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kMergedWithPrevious:
      case SplitBehavior::kMergedWithNext:
        joins = is_delimiter && !after_delimiter;
        break;
      case SplitBehavior::kContiguous:
        joins = is_delimiter == after_delimiter;
        break;
    }
    after_delimiter = is_delimiter;
    if (is_delimiter && behavior == SplitBehavior::kRemoved) continue;
    if (joins && !spans.empty()) {
      spans.back() = {std::min(spans.back().begin, span.begin), std::max(spans.back().end, span.end)};
    } else {
      spans.push_back(span);
    }
  }
  if (backwards) std::reverse(spans.begin(), spans.end());
  std::erase_if(spans, [](const Span& span) { return span.begin == span.end; });
  return spans;
}

}  // namespace fiddler::text
