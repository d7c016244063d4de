#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

using Symbol = BpeScratch::Symbol;
using Candidate = BpeScratch::Candidate;

// Words longer than this are rare enough to be merged each time; the cap on entries bounds the memory of one
// call.
constexpr size_t kMaxKnownWordBytes = 64;
constexpr size_t kMaxKnownWords = 1 << 16;

std::optional<std::string> OptionalString(const JsonField& model, std::string_view name) {
  const auto field = model.Find(name);
  if (!field) return std::nullopt;
  return field->String();
}

// `model`, after a look at what it asks for.
const JsonField& Supported(const JsonField& model) {
  model.RefuseOthersThan({"type", "vocab", "merges", "unk_token", "fuse_unk", "byte_fallback",
                          "ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix"});
  if (const auto type = model.Find("type"); type && type->String() != "BPE") type->Fail("BPE");
  if (const auto dropout = model.Find("dropout"); dropout && dropout->Number() != 0)
    dropout->Fail("no dropout");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.Find(name);
    if (affix && !affix->String().empty()) affix->Fail("none");
  }
  return model;
}

// Both ways of writing a merge: ["a", "b"] and "a b".
std::pair<std::string_view, std::string_view> ParseMerge(const Json& merge, const JsonField& merges,
                                                         size_t index) {
  const auto fail = [&] { merges.Items()[index].Fail(R"(["left", "right"] or "left right")"); };
  if (merge.is_array()) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) fail();
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (!merge.is_string()) fail();
  const std::string_view text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) fail();
  return {text.substr(0, space), text.substr(space + 1)};
}

// Heap order: the lowest rank on top, then the leftmost.
bool ComesLater(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void AppendSymbol(int32_t id, std::vector<Symbol>& symbols) {
  const auto position = static_cast<int32_t>(symbols.size());
  if (position > 0) symbols.back().next = position;
  symbols.push_back({.id = id, .previous = position - 1, .next = -1});
}

}  // namespace

Bpe::Bpe(const JsonField& model)
    : where_(Supported(model).Where()),
      vocabulary_(model.At("vocab")),
      merges_(model.At("merges").Array().size()),
      unk_token_(OptionalString(model, "unk_token")),
      fuse_unk_(model.Bool("fuse_unk", false)),
      byte_fallback_(model.Bool("byte_fallback", false)),
      ignore_merges_(model.Bool("ignore_merges", false)) {
  InsertMerges(model.At("merges"));
  IndexCharacters();
}

void Bpe::InsertMerges(const JsonField& merges) {
  uint32_t rank = 0;
  size_t index = 0;
  std::string merged;
  for (const Json& merge : merges.Array()) {
    const size_t here = index++;
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto [left, right] = ParseMerge(merge, merges, here);
    merged.assign(left).append(right);
    const auto id_of = [&](std::string_view token) {
      const std::optional<int32_t> id = vocabulary_.Find(token);
      if (!id) merges.Items()[here].Fail("tokens of the vocabulary", fmt::format("\"{}\"", token));
      return *id;
    };
    const int32_t left_id = id_of(left);
    const int32_t right_id = id_of(right);
    merges_.Insert(left_id, right_id, {.rank = rank++, .merged = id_of(merged)});
  }
}

void Bpe::IndexCharacters() {
  for (int32_t id = 0; id < vocabulary_.id_end(); ++id) {
    const auto token = vocabulary_.TokenOf(id);
    if (!token || token->empty()) continue;
    const Utf8Char c = DecodeAt(*token, 0);
    if (c.bytes != token->size()) continue;
    if (c.code >= id_of_character_.size()) id_of_character_.resize(c.code + 1, kNoId);
    id_of_character_[c.code] = id;
  }
  for (size_t byte = 0; byte < id_of_byte_token_.size(); ++byte) {
    id_of_byte_token_[byte] = vocabulary_.Find(fmt::format("<0x{:02X}>", byte)).value_or(kNoId);
  }
}

int32_t Bpe::UnknownId() const {
  const std::optional<int32_t> id = vocabulary_.Find(*unk_token_);
  if (!id) throw Error("{}.unk_token: expected a token of the vocabulary, got \"{}\"", where_, *unk_token_);
  return *id;
}

bool Bpe::AppendByteTokens(std::string_view character, std::vector<Symbol>& symbols) const {
  const auto id_of = [&](char byte) { return id_of_byte_token_[static_cast<uint8_t>(byte)]; };
  const auto has_token = [&](char byte) { return id_of(byte) != kNoId; };
  if (!std::all_of(character.begin(), character.end(), has_token)) return false;
  for (const char byte : character) AppendSymbol(id_of(byte), symbols);
  return true;
}

void Bpe::SplitIntoSymbols(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  // An unknown character waits until a known one follows: so it can fuse with the next. Byte tokens overtake
  // it, as they do in Hugging Face.
  bool unknown_waits = false;
  for (size_t position = 0; position < word.size();) {
    const Utf8Char c = DecodeAt(word, position);
    const std::string_view character = word.substr(position, c.bytes);
    position += c.bytes;
    const int32_t id = IdOfCharacter(c.code);
    if (id != kNoId) {
      if (unknown_waits) AppendSymbol(UnknownId(), symbols);
      unknown_waits = false;
      AppendSymbol(id, symbols);
      continue;
    }
    if (byte_fallback_ && AppendByteTokens(character, symbols)) continue;
    if (!unk_token_) continue;
    if (unknown_waits && !fuse_unk_) AppendSymbol(UnknownId(), symbols);
    unknown_waits = true;
  }
  if (unknown_waits) AppendSymbol(UnknownId(), symbols);
}

void Bpe::MergeSymbols(BpeScratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& queue = scratch.queue;
  const auto at = [&](int32_t position) -> Symbol& { return symbols[static_cast<size_t>(position)]; };
  const auto merge_at = [&](int32_t position) {
    return merges_.Find(at(position).id, at(at(position).next).id);
  };
  const auto enqueue = [&](int32_t position) {
    if (const MergeTable::Merge* merge = merge_at(position)) {
      queue.push_back({merge->rank, position});
      std::push_heap(queue.begin(), queue.end(), ComesLater);
    }
  };

  queue.clear();
  for (int32_t position = 0; position + 1 < static_cast<int32_t>(symbols.size()); ++position) {
    if (const MergeTable::Merge* merge = merge_at(position)) queue.push_back({merge->rank, position});
  }
  std::make_heap(queue.begin(), queue.end(), ComesLater);

  while (!queue.empty()) {
    const Candidate top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), ComesLater);
    queue.pop_back();

    // A candidate is stale if one of its two symbols has merged with another one since.
    Symbol& left = at(top.position);
    if (left.id == kNoId || left.next == -1) continue;
    const MergeTable::Merge* merge = merge_at(top.position);
    if (merge == nullptr || merge->rank != top.rank) continue;

    Symbol& right = at(left.next);
    left.id = merge->merged;
    left.next = right.next;
    right.id = kNoId;
    if (left.next != -1) at(left.next).previous = top.position;
    if (left.previous != -1) enqueue(left.previous);
    if (left.next != -1) enqueue(top.position);
  }
}

void Bpe::Encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = vocabulary_.Find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  const bool is_short = word.size() <= kMaxKnownWordBytes;
  if (is_short) {
    const auto known = scratch.known_words.find(word);
    if (known != scratch.known_words.end()) {
      ids.insert(ids.end(), known->second.begin(), known->second.end());
      return;
    }
  }
  const size_t begin = ids.size();
  SplitIntoSymbols(word, scratch.symbols);
  MergeSymbols(scratch);
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id != kNoId) ids.push_back(symbol.id);
  }
  if (is_short && scratch.known_words.size() < kMaxKnownWords) {
    scratch.known_words.emplace(word,
                                std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(begin), ids.end()));
  }
}

}  // namespace fiddler::text
