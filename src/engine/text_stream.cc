#include "engine/text_stream.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "text/unicode.h"

namespace fiddler {
namespace {

// Where a stop string is in a text: its end, then its beginning, so that matches order by what ends first.
using Match = std::pair<size_t, size_t>;

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
    if (!text::IsValidUtf8(stop)) {  // it could end the text inside a character
      throw Error("stop: expected UTF-8, got {}", Printable(stop));
    }
  }
  // The decoder may hold back the end of the prompt (bytes of a character, or all of it): it comes out later.
  size_t decoded = 0;
  for (int32_t token : prompt) decoded += decoder_.Push(token).size();
  rest_of_prompt_ = tokenizer.Decode(prompt, /*skip_special_tokens=*/true);
  rest_of_prompt_.erase(0, decoded);
}

void TextStream::Hold(std::string_view text) {
  if (text.starts_with(rest_of_prompt_)) {
    text.remove_prefix(rest_of_prompt_.size());
    rest_of_prompt_.clear();
  } else if (rest_of_prompt_.starts_with(text)) {
    rest_of_prompt_.erase(0, text.size());
    return;
  } else {  // the prompt ended inside a character, which is now complete and reads differently
    rest_of_prompt_.clear();
  }
  held_ += text;
}

std::string TextStream::Push(int32_t token) {
  if (stopped_) return "";
  Hold(decoder_.Push(token));
  return TakeCertain();
}

std::string TextStream::Flush() {
  if (stopped_) return "";
  Hold(decoder_.Flush());
  std::string text = TakeCertain();
  if (!stopped_) text += std::exchange(held_, "");
  return text;
}

std::string TextStream::TakeCertain() {
  // The stop string that is complete first ends the text, and of those the longest: the same one however the
  // text was cut into tokens.
  std::optional<Match> first;
  size_t keep = 0;
  for (const std::string& stop : stop_strings_) {
    if (const size_t begin = held_.find(stop); begin != std::string::npos) {
      const Match match(begin + stop.size(), begin);
      first = std::min(first.value_or(match), match);
    }
    keep = std::max(keep, LengthOfPossibleStart(held_, stop));
  }
  stopped_ = first.has_value();
  std::string text = held_.substr(0, stopped_ ? first->second : held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

}  // namespace fiddler
