#include "text/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

namespace fiddler::text {

Vocabulary::Vocabulary(const JsonField& vocab) {
  const Json& entries = vocab.Object();
  tokens_.reserve(entries.size());
  for (const auto& [token, id] : entries.items()) {
    const bool in_range =
        id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < kMaxVocabulary;
    if (!in_range) vocab.At(token).Fail(fmt::format("an id from 0 to {}", kMaxVocabulary - 1));
    const auto index = id.get<size_t>();
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (tokens_[index])
      vocab.At(token).Fail("an id of its own", fmt::format("{}, which {} has", index, *tokens_[index]));
    tokens_[index] = token;
  }
  ids_.reserve(entries.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id]) ids_.emplace(*tokens_[id], static_cast<int32_t>(id));
  }
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  const auto entry = ids_.find(token);
  if (entry == ids_.end()) return std::nullopt;
  return entry->second;
}

std::optional<std::string_view> Vocabulary::TokenOf(int32_t id) const {
  if (id < 0 || id >= id_end()) return std::nullopt;
  return tokens_[static_cast<size_t>(id)];
}

}  // namespace fiddler::text
