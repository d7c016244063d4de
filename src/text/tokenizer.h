// Text to token ids and back, exactly as Hugging Face `tokenizers` does it for the same tokenizer.json.
//
// Supported: byte-pair models (GPT-2, GPT-NeoX, Llama, Mixtral, Qwen, DeepSeek kinds) with the normalizers,
// pre-tokenizers, post-processors and decoders listed in their headers. Whatever else a file asks for is
// refused at load, by name. `truncation` and `padding` are not applied, as in transformers, which sets them
// per call. Immutable after load: any number of threads may use one Tokenizer at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"

namespace fiddler {

class Tokenizer {
 public:
  // Both throw Error naming the file and the field, what was expected and what was found.
  static Tokenizer FromFile(const std::filesystem::path& tokenizer_json);
  static Tokenizer FromJson(const Json& json, std::string_view source);

  // Any bytes are accepted: what is not UTF-8 becomes U+FFFD, one for each maximal ill-formed run (as the
  // Unicode standard recommends and as Rust and Python decode). `add_special_tokens` adds what the file's
  // post-processor adds, typically <s> in front; special tokens written out in the text always become their
  // ids. Throws Error if the text is larger than 1 GiB, or if a regular expression of the file gives up on
  // it.
  std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens) const;

  // Always valid UTF-8. Ids that name no token are skipped.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  int32_t vocab_size() const { return static_cast<int32_t>(decoded_as_.size()); }  // largest id + 1
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // The token as decoding sees it (byte-level and "▁" not yet undone); empty if the id names no token.
  std::string_view IdToToken(int32_t id) const;
  bool IsSpecial(int32_t id) const;  // control tokens such as <s>, <|im_end|>

 private:
  friend class StreamDecoder;

  struct DecodedAs {
    std::optional<std::string_view> token;  // owned by bpe_ or added_tokens_; none: no token has this id
    bool is_special = false;
    bool is_skipped = false;  // when decoding without special tokens
  };

  explicit Tokenizer(const text::JsonField& root);
  static std::vector<DecodedAs> DecodingTable(const text::Vocabulary& vocabulary,
                                              const text::AddedTokens& added_tokens);

  void EncodeNormalized(const text::TextPart& part, text::BpeScratch& scratch,
                        std::vector<int32_t>& ids) const;
  const DecodedAs* Lookup(int32_t id) const;  // null if the id names no token
  // What to hand to the decoder: nothing if the id names no token or is skipped.
  std::optional<std::string_view> TokenToDecode(int32_t id, bool skip_special_tokens) const;

  text::Normalizer normalizer_;
  text::PreTokenizer pre_tokenizer_;
  text::Bpe bpe_;
  text::AddedTokens added_tokens_;
  std::vector<DecodedAs> decoded_as_;  // [vocab_size]
  text::PostProcessor post_processor_;
  text::Decoder decoder_;
};

}  // namespace fiddler
