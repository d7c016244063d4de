// Reads the members of one JSON object by name and refuses what nobody asked for: a misspelt field must not
// leave a number at its default in silence. Looks at the object and the source, which must outlive it.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace fiddler {

class FieldReader {
 public:
  // `source` (a file name) opens every error. Throws Error if `object` is not an object.
  FieldReader(const Json& object, std::string_view source);

  // Each throws Error naming source, field, expected and got if the field is missing or not that.
  bool Has(std::string_view field) const;
  std::string String(std::string_view field);
  double Number(std::string_view field);    // finite, at least 0
  double Positive(std::string_view field);  // finite, above 0
  uint64_t Bytes(std::string_view field);   // an integer, or a size such as "24GiB"
  int64_t Integer(std::string_view field, int64_t low, int64_t high);  // both ends included
  const Json& Value(std::string_view field);

  // "file: field", for values that others read.
  std::string Where(std::string_view field) const;

  // Throws Error naming the first field that was not read.
  void RefuseUnread() const;

 private:
  [[noreturn]] void Fail(std::string_view field, std::string_view expected, const Json& got) const;

  const Json& object_;
  std::string_view source_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace fiddler
