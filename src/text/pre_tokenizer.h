// The `pre_tokenizer` of tokenizer.json: cuts normalized text into the words that the model encodes one by
// one. Known: Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit.
// Immutable, safe from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_field.h"
#include "text/normalizer.h"
#include "text/split.h"

namespace fiddler::text {

// A text and the words in it, in order. Words are never empty; what lies between them is dropped.
class Words {
 public:
  explicit Words(TextPart part);  // the whole part is one word, if it is not empty

  size_t size() const { return words_.size(); }
  std::string_view operator[](size_t i) const { return At(text_, words_[i]); }
  bool StartsInput(size_t i) const { return i == 0 && first_starts_input_; }

  // Replaces every word by parts of it: `split(word)` gives their places in the word, without empty ones.
  template <typename SplitWord>
  void SplitEach(const SplitWord& split) {
    std::vector<Span> parts;
    for (const Span word : words_) {
      for (const Span part : split(At(text_, word))) {
        parts.push_back({word.begin + part.begin, word.begin + part.end});
      }
    }
    first_starts_input_ = first_starts_input_ && !parts.empty() && parts[0].begin == words_[0].begin;
    words_ = std::move(parts);
  }

  // Rewrites every word: `rewrite(i, word, out)` appends its new text, never nothing.
  template <typename RewriteWord>
  void RewriteEach(const RewriteWord& rewrite) {
    std::string text;
    text.reserve(2 * text_.size());
    std::vector<Span> words;
    words.reserve(words_.size());
    for (size_t i = 0; i < words_.size(); ++i) {
      const size_t begin = text.size();
      rewrite(i, (*this)[i], text);
      words.push_back({begin, text.size()});
    }
    text_ = std::move(text);
    words_ = std::move(words);
  }

 private:
  std::string text_;
  std::vector<Span> words_;
  bool first_starts_input_;
};

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual void Apply(Words& words) const = 0;
};

class PreTokenizer {
 public:
  explicit PreTokenizer(const std::optional<JsonField>& field);  // without one, a part of text is one word

  Words Apply(TextPart part) const;

 private:
  std::vector<std::unique_ptr<const PreTokenizerStep>> steps_;
};

}  // namespace fiddler::text
