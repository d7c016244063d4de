#include "base/json.h"

#include <utility>
#include <vector>

#include "base/error.h"

namespace fiddler {
namespace {

// Receives the parser's events and builds the value. The library's own callback would do, but copies every
// name once more: this one finds a name given twice by the insertion that is needed anyway.
class JsonBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit JsonBuilder(std::string_view source) : source_(source) {}

  Json Take() { return std::move(root_); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(value); }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool start_object(size_t) override { return Open(Json::value_t::object); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(Json::value_t::array); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    const auto [entry, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(name);
    if (!is_new) throw Error("{}: expected every name once, got {} twice", source_, Printable(name));
    member_ = &entry->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    constexpr int kNumberOverflow = 406;  // such as 1e999
    if (error.id == kNumberOverflow) {
      throw Error("{}: expected JSON, got a number too large to represent", source_);
    }
    throw Error("{}: expected JSON, got a syntax error at byte {}", source_, position);
  }

 private:
  // Where the next value goes: the root, the end of the open array, or the member that was just named.
  Json& Place() {
    if (open_.empty()) return root_;
    if (!open_.back()->is_array()) return *member_;
    return open_.back()->get_ref<Json::array_t&>().emplace_back();
  }

  template <typename Value>
  bool Add(const Value& value) {
    Place() = Json(value);
    return true;
  }

  bool Open(Json::value_t type) {
    constexpr size_t kMaxDepth = 64;
    if (open_.size() == kMaxDepth) {
      throw Error("{}: expected JSON nested at most {} deep, got more", source_, kMaxDepth);
    }
    Json& place = Place();
    place = Json(type);
    open_.push_back(&place);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  std::string_view source_;
  Json root_;
  std::vector<Json*> open_;  // from the root inwards; an open one does not move, as only the last one grows
  Json* member_ = nullptr;   // of the innermost object, named and without a value yet
};

}  // namespace

Json ParseJson(std::string_view text, std::string_view source) {
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {  // the parser takes it for the end
    throw Error("{}: expected JSON, got a NUL at byte {}", source, nul + 1);
  }
  JsonBuilder builder(source);
  Json::sax_parse(text, &builder);
  return builder.Take();
}

std::string Printable(const Json& value) {
  constexpr size_t kMaxLength = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxLength) text = text.substr(0, kMaxLength) + "...";
  return text;
}

}  // namespace fiddler
