// The `added_tokens` of tokenizer.json: strings that become one id wherever they stand in the text, before
// the model sees it. Those with normalized = false are looked for in the text as it came, the others in
// normalized text, as the normalizer writes them. Immutable, safe from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/json_field.h"
#include "text/normalizer.h"
#include "text/split.h"
#include "text/vocabulary.h"

namespace fiddler::text {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string decoded_as;  // what the normalizer makes of the content if `normalized`, else the content
  bool special;            // a control token: left out when decoding without special tokens
  bool normalized;         // looked for in normalized text
  bool single_word;        // not next to a word character
  bool lstrip;             // takes the white space before it along
  bool rstrip;             // and after it
};

// Finds strings from left to right; of those that start at one place, the longest.
class StringFinder {
 public:
  void Add(std::string_view string, size_t value);  // not empty
  bool Contains(std::string_view string) const;

  struct Match {
    Span span;
    size_t value;
  };
  std::optional<Match> FindFirst(std::string_view text, size_t from) const;

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Node {
    uint32_t value = kNone;
    std::vector<std::pair<char, uint32_t>> children;  // few, except at the root
  };
  uint32_t ChildOf(uint32_t node, char byte) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie; the root comes first
  std::vector<bool> is_first_byte_ = std::vector<bool>(256);
};

class AddedTokens {
 public:
  // `field` is the list in the file, if any. Ids must be the ones Hugging Face would assign: that of the
  // vocabulary if the token is there, else the next free one.
  AddedTokens(const std::optional<JsonField>& field, const Vocabulary& vocabulary,
              const Normalizer& normalizer);

  struct Segment {
    Span span;
    std::optional<int32_t> id;  // none: ordinary text
  };
  std::vector<Segment> SplitRaw(std::string_view text) const;         // at tokens with normalized = false
  std::vector<Segment> SplitNormalized(std::string_view text) const;  // at the others

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  std::optional<int32_t> Find(std::string_view content) const;

 private:
  void AddToFinder(const AddedToken& token, const JsonField& content);
  std::vector<Segment> SplitWith(const StringFinder& finder, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, size_t> index_;  // by content
  StringFinder raw_finder_;
  StringFinder normalized_finder_;
};

}  // namespace fiddler::text
