#include "text/tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "text/unicode.h"

namespace fiddler {
namespace {

using text::JsonField;
using text::kMaxTextBytes;
using text::TextPart;

constexpr size_t kMaxFileBytes = size_t{256} << 20;  // the largest published ones have 35 MB

const JsonField& Checked(const JsonField& root) {
  root.RefuseOthersThan({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                         "post_processor", "decoder", "model"});
  if (const auto version = root.Find("version"); version && version->String() != "1.0")
    version->Fail("\"1.0\"");
  return root;
}

}  // namespace

Tokenizer Tokenizer::FromFile(const std::filesystem::path& tokenizer_json) {
  const std::string source = tokenizer_json.string();
  return FromJson(ParseJson(ReadFile(tokenizer_json, kMaxFileBytes), source), source);
}

Tokenizer Tokenizer::FromJson(const Json& json, std::string_view source) {
  return Tokenizer(JsonField(json, source));
}

Tokenizer::Tokenizer(const JsonField& root)
    : normalizer_(Checked(root).Find("normalizer")),
      pre_tokenizer_(root.Find("pre_tokenizer")),
      bpe_(root.At("model")),
      added_tokens_(root.Find("added_tokens"), bpe_.vocabulary(), normalizer_),
      decoded_as_(DecodingTable(bpe_.vocabulary(), added_tokens_)),
      post_processor_(root.Find("post_processor"), vocab_size()),
      decoder_(root.Find("decoder")) {}

std::vector<Tokenizer::DecodedAs> Tokenizer::DecodingTable(const text::Vocabulary& vocabulary,
                                                           const text::AddedTokens& added_tokens) {
  std::vector<DecodedAs> table(static_cast<size_t>(vocabulary.id_end()));
  for (int32_t id = 0; id < vocabulary.id_end(); ++id) {
    table[static_cast<size_t>(id)].token = vocabulary.TokenOf(id);
  }
  for (const text::AddedToken& token : added_tokens.tokens()) {
    const auto id = static_cast<size_t>(token.id);
    if (id >= table.size()) table.resize(id + 1);
    // Hugging Face skips by what a token decodes to: a special token that the normalizer rewrites is never
    // skipped.
    const bool is_skipped = token.special && token.decoded_as == token.content;
    table[id] = {.token = token.decoded_as, .is_special = token.special, .is_skipped = is_skipped};
  }
  return table;
}

const Tokenizer::DecodedAs* Tokenizer::Lookup(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return nullptr;
  const DecodedAs& entry = decoded_as_[static_cast<size_t>(id)];
  return entry.token ? &entry : nullptr;
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const std::optional<int32_t> added = added_tokens_.Find(token);
  return added ? added : bpe_.vocabulary().Find(token);
}

std::string_view Tokenizer::IdToToken(int32_t id) const {
  const DecodedAs* entry = Lookup(id);
  return entry == nullptr ? std::string_view() : *entry->token;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const DecodedAs* entry = Lookup(id);
  return entry != nullptr && entry->is_special;
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes) {
    throw Error("text: expected at most {} bytes to encode, got {}", kMaxTextBytes, text.size());
  }
  std::string repaired;
  if (!text::IsValidUtf8(text)) {
    text::DecodeLossy(text, /*complete=*/true, repaired);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4);  // typical bytes per token
  text::BpeScratch scratch;
  for (const auto& [span, id] : added_tokens_.SplitRaw(text)) {
    if (id) {
      ids.push_back(*id);
    } else {
      TextPart part{.text = std::string(At(text, span)), .starts_input = span.begin == 0};
      normalizer_.Apply(part);
      EncodeNormalized(part, scratch, ids);
    }
  }
  return post_processor_.Apply(std::move(ids), add_special_tokens);
}

void Tokenizer::EncodeNormalized(const TextPart& part, text::BpeScratch& scratch,
                                 std::vector<int32_t>& ids) const {
  for (const auto& [span, id] : added_tokens_.SplitNormalized(part.text)) {
    if (id) {
      ids.push_back(*id);
      continue;
    }
    const text::Words words = pre_tokenizer_.Apply(
        {.text = std::string(At(part.text, span)), .starts_input = part.starts_input && span.begin == 0});
    for (size_t i = 0; i < words.size(); ++i) bpe_.Encode(words[i], scratch, ids);
  }
}

std::optional<std::string_view> Tokenizer::TokenToDecode(int32_t id, bool skip_special_tokens) const {
  const DecodedAs* entry = Lookup(id);
  if (entry == nullptr || (skip_special_tokens && entry->is_skipped)) return std::nullopt;
  return entry->token;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  text::DecodeStream stream = decoder_.Start();
  for (const int32_t id : ids) {
    if (const auto token = TokenToDecode(id, skip_special_tokens)) stream.Push(*token);
  }
  stream.Finish();
  return stream.TakeText();
}

}  // namespace fiddler
