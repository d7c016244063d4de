#include "base/field_reader.h"

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/units.h"

namespace fiddler {

FieldReader::FieldReader(const Json& object, std::string_view source) : object_(object), source_(source) {
  if (!object.is_object()) throw Error("{}: expected a JSON object, got {}", source, Printable(object));
}

std::string FieldReader::Where(std::string_view field) const { return fmt::format("{}: {}", source_, field); }

void FieldReader::Fail(std::string_view field, std::string_view expected, const Json& got) const {
  throw Error("{}: expected {}, got {}", Where(field), expected, Printable(got));
}

bool FieldReader::Has(std::string_view field) const { return object_.contains(field); }

const Json& FieldReader::Value(std::string_view field) {
  const auto it = object_.find(field);
  if (it == object_.end())
    throw Error("{}: expected a value, got nothing: the field is missing", Where(field));
  read_.emplace(field);
  return *it;
}

std::string FieldReader::String(std::string_view field) {
  const Json& value = Value(field);
  if (!value.is_string()) Fail(field, "a string", value);
  return value.get<std::string>();
}

double FieldReader::Number(std::string_view field) {
  const Json& value = Value(field);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < 0) {
    Fail(field, "a finite number of at least 0", value);
  }
  return value.get<double>();
}

double FieldReader::Positive(std::string_view field) {
  const Json& value = Value(field);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0) {
    Fail(field, "a finite number above 0", value);
  }
  return value.get<double>();
}

uint64_t FieldReader::Bytes(std::string_view field) {
  const Json& value = Value(field);
  if (value.is_string()) return ParseBytes(value.get_ref<const std::string&>(), Where(field));
  // What the program made of an int and what it parsed differ in signedness, not in meaning.
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<int64_t>() < 0)) {
    Fail(field, "bytes: an integer of at least 0, or a size such as \"24GiB\"", value);
  }
  return value.get<uint64_t>();
}

int64_t FieldReader::Integer(std::string_view field, int64_t low, int64_t high) {
  const Json& value = Value(field);
  // An unsigned number above INT64_MAX is none that int64_t holds.
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX});
  if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    Fail(field, fmt::format("an integer from {} to {}", low, high), value);
  }
  return value.get<int64_t>();
}

void FieldReader::RefuseUnread() const {
  for (const auto& [field, value] : object_.items()) {
    if (read_.contains(field)) continue;
    throw Error("{}: expected no field but the known ones, got {}: {}", source_, Printable(Json(field)),
                Printable(value));
  }
}

}  // namespace fiddler
