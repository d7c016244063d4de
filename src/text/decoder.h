// The `decoder` of tokenizer.json: makes text of tokens.
// Known: Sequence, ByteLevel, ByteFallback, Metaspace, Replace, Strip, Fuse; without one, tokens are joined
// by spaces.
//
// Decoding is a chain of stages, and there is one implementation for whole texts and for streams: a stage
// passes on what can no longer change and holds back the rest. Decoder is immutable and safe from any thread;
// a DecodeStream is one run through the chain and belongs to one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_field.h"

namespace fiddler::text {

// Up to the stage that fuses the tokens to one text, a piece is a token; after it, a piece is any part of the
// text.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void Push(std::string_view piece) = 0;
  virtual void Finish() = 0;  // passes on what was held back, and finishes the next stage
};

class DecodeStream {
 public:
  void Push(std::string_view token);
  void Finish();           // nothing may be pushed after it
  std::string TakeText();  // the text that came out since the last call; whole UTF-8 characters

 private:
  friend class Decoder;

  std::vector<std::unique_ptr<DecodeStage>>
      stages_;  // last to first; each knows the one before it in this list
  std::unique_ptr<std::string> text_;
};

// One entry of the chain: options, and how to make a stage with them.
class DecodeStageMaker {
 public:
  virtual ~DecodeStageMaker() = default;
  virtual std::unique_ptr<DecodeStage> Make(DecodeStage& next) const = 0;  // both must outlive the stage
};

class Decoder {
 public:
  explicit Decoder(const std::optional<JsonField>& field);

  DecodeStream Start() const;  // the Decoder must outlive the stream

 private:
  void Read(const JsonField& field);
  template <typename Stage, typename... Options>
  void Append(Options... options);
  template <typename Stage, typename... Options>
  void AppendForTokens(Options... options);  // a stage that wants a token, not part of a text

  std::vector<std::unique_ptr<const DecodeStageMaker>> chain_;  // first to last
  bool fused_ = false;                                          // so far, the tokens become one text
};

}  // namespace fiddler::text
