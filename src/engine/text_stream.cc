#include "engine/text_stream.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fiddler {
namespace {

// Length of the longest end of `text` with which `stop` could begin.
size_t LengthOfPossibleStart(const std::string& text, const std::string& stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.compare(text.size() - length, length, stop, 0, length) == 0) return length;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                       std::vector<std::string> stop_strings)
    : decoder_(tokenizer), stop_strings_(std::move(stop_strings)) {
  for (const std::string& stop : stop_strings_) {
    if (stop.empty()) throw Error("stop: expected a string, got an empty one");
  }
  for (int32_t token : prompt) decoder_.Push(token);  // shown already
}

std::string TextStream::Push(int32_t token) {
  if (stopped_) return "";
  held_ += decoder_.Push(token);
  return TakeCertain();
}

std::string TextStream::Flush() {
  if (stopped_) return "";
  held_ += decoder_.Flush();
  std::string text = TakeCertain();
  if (!stopped_) text += std::exchange(held_, "");
  return text;
}

std::string TextStream::TakeCertain() {
  size_t first_stop = std::string::npos;
  size_t keep = 0;
  for (const std::string& stop : stop_strings_) {
    first_stop = std::min(first_stop, held_.find(stop));
    keep = std::max(keep, LengthOfPossibleStart(held_, stop));
  }
  stopped_ = first_stop != std::string::npos;
  std::string text = held_.substr(0, stopped_ ? first_stop : held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

}  // namespace fiddler
