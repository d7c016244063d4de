#include "text/stream_decoder.h"

namespace fiddler {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      skip_special_tokens_(skip_special_tokens),
      stream_(tokenizer.decoder_.Start()) {}

std::string StreamDecoder::Push(int32_t id) {
  if (const auto token = tokenizer_->TokenToDecode(id, skip_special_tokens_)) stream_.Push(*token);
  return stream_.TakeText();
}

std::string StreamDecoder::Flush() {
  stream_.Finish();
  std::string text = stream_.TakeText();
  stream_ = tokenizer_->decoder_.Start();
  return text;
}

}  // namespace fiddler
