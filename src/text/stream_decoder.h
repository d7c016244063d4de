// Turns token ids into text as they are generated.
//
// Text comes out as soon as it can no longer change: a character whose bytes are spread over several tokens
// is held until it is complete, so no output ever ends inside a UTF-8 character. All outputs of Push() and
// the final Flush() joined are exactly Tokenizer::Decode() of all ids. One StreamDecoder serves one sequence
// and one thread at a time; the Tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>

#include "text/decoder.h"
#include "text/tokenizer.h"

namespace fiddler {

class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);

  std::string Push(int32_t id);  // the text that became certain, often empty
  std::string Flush();           // what was held back; afterwards a new sequence may begin

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  text::DecodeStream stream_;
};

}  // namespace fiddler
