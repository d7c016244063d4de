// Reads config.json field by field and remembers which fields were read, so that nothing that could change
// the result is ever ignored: whatever a family did not ask for and is not known to be harmless is refused by
// name.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace fiddler {

class ConfigReader {
 public:
  // `config` must outlive the reader; `source` (a file name) opens every error message; `tolerated` are the
  // fields the user said to ignore. Throws Error if `config` is not an object.
  ConfigReader(const Json& config, std::string source, std::span<const std::string> tolerated = {});

  const std::string& source() const { return source_; }
  std::span<const std::string> tolerated() const { return tolerated_; }

  // A field counts as given when it is present and not null. Each of these marks it as read and throws Error
  // naming file, field, expected and got when its type or range is wrong.
  bool Has(std::string_view field);
  bool IsNull(std::string_view field) const;  // present, but null: not the same as absent for every field
  bool IsNull(std::string_view field);        // present and null: where that means something else than absent
  int64_t Integer(std::string_view field, int64_t min, int64_t max);  // must be given
  int64_t Integer(std::string_view field, int64_t min, int64_t max, int64_t otherwise);
  double Number(std::string_view field, double min, double max);
  double Number(std::string_view field, double min, double max, double otherwise);
  bool Boolean(std::string_view field, bool otherwise);
  std::string String(std::string_view field, std::string_view otherwise);
  std::vector<int64_t> Integers(std::string_view field, int64_t min,
                                int64_t max);                // a list, one number, or nothing
  std::vector<std::string> Strings(std::string_view field);  // a list, or nothing
  const Json* Object(std::string_view field);                // null if not given

  // Refuses every value of the field but this one (absent and null pass).
  void MustBe(std::string_view field, const Json& value);

  // The field has no influence on what a forward pass computes.
  void Ignore(std::string_view field);

  // Throws Error naming the first field that is given, was not read, is not known to be harmless in any
  // family, and is not tolerated.
  void RefuseUnread() const;

  [[noreturn]] void Fail(std::string_view field, std::string_view expected, const Json& got) const;

 private:
  const Json* Given(std::string_view field);  // null if absent or null; marks it as read
  const Json& Required(std::string_view field, std::string_view expected);

  const Json& config_;
  std::string source_;
  std::span<const std::string> tolerated_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace fiddler
