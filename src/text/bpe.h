// The byte-pair model of tokenizer.json: a word becomes its characters, then neighbours merge, lowest rank
// first. Merging takes O(n log n) for a word of n characters, so a whole text without pre-tokenizer can be
// one word. Immutable, safe from any thread; each thread brings its own BpeScratch.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/json_field.h"
#include "text/merge_table.h"
#include "text/vocabulary.h"

namespace fiddler::text {

// Working memory of Bpe::Encode, and the words it has already seen. For one Bpe and one thread at a time.
struct BpeScratch {
  struct Symbol {  // a token of the word so far, in a doubly linked list; -1 ends it
    int32_t id;    // -1: merged into the one on its left
    int32_t previous;
    int32_t next;
  };
  struct Candidate {  // a possible merge of the symbol at `position` with the next one
    uint32_t rank;
    int32_t position;
  };
  struct StringHash {
    using is_transparent = void;  // NOLINT(readability-identifier-naming): the name the standard looks for
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;  // a heap
  std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> known_words;
};

class Bpe {
 public:
  explicit Bpe(const JsonField& model);

  // Appends the ids of one word (valid UTF-8). A character that is in no way part of the vocabulary becomes
  // unk_token, or nothing if there is none. Throws Error if unk_token is needed but not in the vocabulary.
  void Encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  void InsertMerges(const JsonField& merges);
  void IndexCharacters();
  int32_t UnknownId() const;

  int32_t IdOfCharacter(char32_t code) const {
    return code < id_of_character_.size() ? id_of_character_[code] : kNoId;
  }
  bool AppendByteTokens(std::string_view character, std::vector<BpeScratch::Symbol>& symbols) const;
  void SplitIntoSymbols(std::string_view word, std::vector<BpeScratch::Symbol>& symbols) const;
  void MergeSymbols(BpeScratch& scratch) const;

  static constexpr int32_t kNoId = -1;

  std::string where_;
  Vocabulary vocabulary_;
  MergeTable merges_;
  std::vector<int32_t> id_of_character_;       // by code point, up to the last one that is a token
  std::array<int32_t, 256> id_of_byte_token_;  // "<0x00>" to "<0xFF>"
  std::optional<std::string> unk_token_;
  bool fuse_unk_;
  bool byte_fallback_;
  bool ignore_merges_;
};

}  // namespace fiddler::text
