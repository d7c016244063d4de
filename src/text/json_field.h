// A value inside a JSON file together with where it stands, so that every error names the file and the field.
// Looks at the Json and the source name, which must outlive it. A field that is null counts as absent, as in
// tokenizer.json files.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace fiddler::text {

class JsonField {
 public:
  JsonField(const Json& value, std::string_view source, std::string path = "")
      : value_(&value), source_(source), path_(std::move(path)) {}

  // Accessors throw Error if the value has another type.
  JsonField At(std::string_view name) const;                   // a member that must be there
  std::optional<JsonField> Find(std::string_view name) const;  // a member that may be absent
  std::vector<JsonField> Items() const;                        // the elements of an array
  const Json& Object() const;
  const Json& Array() const;
  const std::string& String() const;
  bool Bool() const;
  int64_t Integer() const;
  double Number() const;
  char32_t Character() const;  // a string of one code point

  bool Bool(std::string_view name, bool fallback) const;  // a member; `fallback` if absent

  // Throws if this object has a member not listed: an option we do not know must never be ignored.
  void RefuseOthersThan(std::initializer_list<std::string_view> known) const;

  std::string Where() const;  // "tokenizer.json: model.vocab"
  [[noreturn]] void Fail(std::string_view expected) const;
  [[noreturn]] void Fail(std::string_view expected, std::string_view got) const;

 private:
  const Json* value_;
  std::string_view source_;
  std::string path_;  // "model.merges[3]"; empty for the whole file
};

}  // namespace fiddler::text
