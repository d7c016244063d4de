// The tokens of a byte-pair model and their ids. Immutable, safe from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/json_field.h"

namespace fiddler::text {

// Far above every published vocabulary (262,144); bounds what a bad file can make us allocate.
inline constexpr int32_t kMaxVocabulary = 1 << 21;

class Vocabulary {
 public:
  explicit Vocabulary(const JsonField& vocab);  // {"token": id, ...}; refuses two tokens with one id

  int32_t num_tokens() const { return static_cast<int32_t>(ids_.size()); }
  int32_t id_end() const {
    return static_cast<int32_t>(tokens_.size());
  }  // largest id + 1; ids may have gaps
  std::optional<int32_t> Find(std::string_view token) const;
  std::optional<std::string_view> TokenOf(int32_t id) const;

 private:
  std::vector<std::optional<std::string>> tokens_;     // [id_end]
  std::unordered_map<std::string_view, int32_t> ids_;  // keys live in tokens_
};

}  // namespace fiddler::text
