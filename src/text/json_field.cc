#include "text/json_field.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

// Numbers, booleans and strings as they are written, shortened; containers by name.
std::string Describe(const Json& value) {
  constexpr size_t kMaxBytes = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kMaxBytes) return "a longer string";
  return value.dump();
}

}  // namespace

std::string JsonField::Where() const {
  return path_.empty() ? std::string(source_) : fmt::format("{}: {}", source_, path_);
}

void JsonField::Fail(std::string_view expected) const { Fail(expected, Describe(*value_)); }

void JsonField::Fail(std::string_view expected, std::string_view got) const {
  throw Error("{}: expected {}, got {}", Where(), expected, got);
}

std::optional<JsonField> JsonField::Find(std::string_view name) const {
  const auto member = Object().find(name);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return JsonField(*member, source_, path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name));
}

JsonField JsonField::At(std::string_view name) const {
  std::optional<JsonField> member = Find(name);
  if (!member) Fail(fmt::format("a member \"{}\"", name), "none");
  return *std::move(member);
}

std::vector<JsonField> JsonField::Items() const {
  std::vector<JsonField> items;
  items.reserve(Array().size());
  for (const Json& item : Array()) {
    items.emplace_back(item, source_, fmt::format("{}[{}]", path_, items.size()));
  }
  return items;
}

const Json& JsonField::Object() const {
  if (!value_->is_object()) Fail("an object");
  return *value_;
}

const Json& JsonField::Array() const {
  if (!value_->is_array()) Fail("an array");
  return *value_;
}

const std::string& JsonField::String() const {
  if (!value_->is_string()) Fail("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonField::Bool() const {
  if (!value_->is_boolean()) Fail("true or false");
  return value_->get<bool>();
}

bool JsonField::Bool(std::string_view name, bool fallback) const {
  const std::optional<JsonField> member = Find(name);
  return member ? member->Bool() : fallback;
}

int64_t JsonField::Integer() const {
  const bool fits = value_->is_number_integer() &&
                    !(value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX});
  if (!fits) Fail("an integer");
  return value_->get<int64_t>();
}

double JsonField::Number() const {
  if (!value_->is_number()) Fail("a number");
  return value_->get<double>();
}

char32_t JsonField::Character() const {
  const std::string& string = String();
  if (string.empty()) Fail("one character");
  const Utf8Char first = DecodeAt(string, 0);
  if (first.bytes != string.size()) Fail("one character");
  return first.code;
}

void JsonField::RefuseOthersThan(std::initializer_list<std::string_view> known) const {
  for (const auto& [name, unused] : Object().items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      Fail("only options this build knows", fmt::format("\"{}\"", name));
    }
  }
}

}  // namespace fiddler::text
