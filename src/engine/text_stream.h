// Generated tokens as text that is safe to show: whole characters only, and nothing of a stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/stream_decoder.h"

namespace fiddler {

class TextStream {
 public:
  // `prompt` is what the generated text continues: its end decides how the first token reads (a space or
  // none). `tokenizer` must outlive this object. Throws Error if a stop string is empty or not UTF-8.
  TextStream(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
             std::vector<std::string> stop_strings);

  std::string Push(int32_t token);  // the text that became certain; nothing once stopped
  std::string Flush();              // the end of generation: what was held back

  bool stopped() const { return stopped_; }  // a stop string came; it and what follows is not in the text

 private:
  void Hold(std::string_view text);  // newly decoded text, the rest of the prompt taken off its front
  std::string TakeCertain();

  StreamDecoder decoder_;
  std::string rest_of_prompt_;  // what the decoder has still to give of it
  std::vector<std::string> stop_strings_;
  std::string held_;  // decoded, not yet handed out: it may begin a stop string
  bool stopped_ = false;
};

}  // namespace fiddler
