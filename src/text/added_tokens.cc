#include "text/added_tokens.h"

#include <fmt/format.h>

#include <utility>

#include "text/unicode.h"

namespace fiddler::text {
namespace {

// A search may look at this many bytes at every place of the text.
constexpr size_t kMaxContentBytes = 1024;

bool TouchesWord(std::string_view text, Span match) {
  const std::string_view before = text.substr(0, match.begin);
  const std::string_view after = text.substr(match.end);
  return (!before.empty() && IsWord(DecodeLast(before).code)) ||
         (!after.empty() && IsWord(DecodeAt(after, 0).code));
}

// At least `limit`, and `limit` where the position is before it.
size_t BeginOfWhitespaceBefore(std::string_view text, size_t position, size_t limit) {
  if (position < limit) return limit;
  while (position > limit) {
    const Utf8Char c = DecodeLast(text.substr(limit, position - limit));
    if (!IsWhitespace(c.code)) break;
    position -= c.bytes;
  }
  return position;
}

size_t EndOfWhitespaceAfter(std::string_view text, size_t position) {
  while (position < text.size()) {
    const Utf8Char c = DecodeAt(text, position);
    if (!IsWhitespace(c.code)) break;
    position += c.bytes;
  }
  return position;
}

std::string Normalized(std::string_view content, const Normalizer& normalizer) {
  TextPart part{.text = std::string(content)};
  normalizer.Apply(part);
  return std::move(part.text);
}

}  // namespace

uint32_t StringFinder::ChildOf(uint32_t node, char byte) const {
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return kNone;
}

void StringFinder::Add(std::string_view string, size_t value) {
  is_first_byte_[static_cast<uint8_t>(string[0])] = true;
  uint32_t node = 0;
  for (const char byte : string) {
    uint32_t child = ChildOf(node, byte);
    if (child == kNone) {
      child = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  nodes_[node].value = static_cast<uint32_t>(value);
}

bool StringFinder::Contains(std::string_view string) const {
  const std::optional<Match> match = FindFirst(string, 0);
  return match && match->span == Span{0, string.size()};
}

std::optional<StringFinder::Match> StringFinder::FindFirst(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!is_first_byte_[static_cast<uint8_t>(text[begin])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t end = begin; end < text.size();) {
      node = ChildOf(node, text[end++]);
      if (node == kNone) break;
      if (nodes_[node].value != kNone) longest = {{begin, end}, nodes_[node].value};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

AddedTokens::AddedTokens(const std::optional<JsonField>& field, const Vocabulary& vocabulary,
                         const Normalizer& normalizer) {
  if (!field) return;
  int32_t next_free_id = vocabulary.num_tokens();
  for (const JsonField& item : field->Items()) {
    item.RefuseOthersThan({"id", "content", "special", "normalized", "single_word", "lstrip", "rstrip"});
    const JsonField content = item.At("content");
    if (content.String().empty()) continue;  // as in Hugging Face
    const std::optional<int32_t> known = vocabulary.Find(content.String());
    const int32_t id = known ? *known : next_free_id++;
    if (item.At("id").Integer() != id)
      item.At("id").Fail(fmt::format("{}, the id Hugging Face gives it", id));
    const auto owner = vocabulary.TokenOf(id);
    if (owner && *owner != content.String())
      content.Fail("an id of its own", fmt::format("that of \"{}\"", *owner));

    AddedToken token{.id = id,
                     .content = content.String(),
                     .decoded_as = content.String(),
                     .special = item.At("special").Bool(),
                     .normalized = item.At("normalized").Bool(),
                     .single_word = item.At("single_word").Bool(),
                     .lstrip = item.At("lstrip").Bool(),
                     .rstrip = item.At("rstrip").Bool()};
    if (token.normalized) token.decoded_as = Normalized(token.content, normalizer);
    if (!index_.emplace(token.content, tokens_.size()).second)
      content.Fail("a token that is not in the list yet");
    AddToFinder(token, content);
    tokens_.push_back(std::move(token));
  }
}

void AddedTokens::AddToFinder(const AddedToken& token, const JsonField& content) {
  const std::string& wanted = token.decoded_as;
  if (wanted.empty()) return;  // nothing is left of it after normalization: never found
  if (wanted.size() > kMaxContentBytes) content.Fail(fmt::format("at most {} bytes", kMaxContentBytes));
  StringFinder& finder = token.normalized ? normalized_finder_ : raw_finder_;
  if (finder.Contains(wanted)) content.Fail("a token that differs from the others after normalization");
  finder.Add(wanted, tokens_.size());
}

std::vector<AddedTokens::Segment> AddedTokens::SplitRaw(std::string_view text) const {
  return SplitWith(raw_finder_, text);
}

std::vector<AddedTokens::Segment> AddedTokens::SplitNormalized(std::string_view text) const {
  return SplitWith(normalized_finder_, text);
}

std::vector<AddedTokens::Segment> AddedTokens::SplitWith(const StringFinder& finder,
                                                         std::string_view text) const {
  std::vector<Segment> segments;
  size_t covered = 0;
  size_t searched = 0;
  size_t whitespace_end = 0;  // of the white space after the last token that asked: found once, not per token
  while (const auto match = finder.FindFirst(text, searched)) {
    const AddedToken& token = tokens_[match->value];
    Span span = match->span;
    searched = span.end;  // even if white space after it is taken along: a token made of it is still found
    if (token.single_word && TouchesWord(text, span)) continue;
    if (token.lstrip) span.begin = BeginOfWhitespaceBefore(text, span.begin, covered);
    if (token.rstrip) {
      if (whitespace_end < span.end) whitespace_end = EndOfWhitespaceAfter(text, span.end);
      span.end = whitespace_end;
    }
    if (covered < span.begin) segments.push_back({{covered, span.begin}, std::nullopt});
    segments.push_back({span, token.id});
    covered = span.end;
  }
  if (covered != text.size()) segments.push_back({{covered, text.size()}, std::nullopt});
  return segments;
}

std::optional<int32_t> AddedTokens::Find(std::string_view content) const {
  const auto entry = index_.find(std::string(content));
  if (entry == index_.end()) return std::nullopt;
  return tokens_[entry->second].id;
}

}  // namespace fiddler::text
