#include "base/sealed_json.h"

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/field_reader.h"
#include "base/json.h"

namespace fiddler {
namespace {

std::string ChecksumOf(const Json& json) {
  return fmt::format("{:016x}", Fnv1a(json.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

}  // namespace

std::string SealJson(const JsonKind& kind, const Json& content) {
  CHECK(content.is_object());
  Json sealed = content;
  sealed["kind"] = kind.name;
  sealed["version"] = kind.version;
  sealed["checksum"] = ChecksumOf(sealed);
  return sealed.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Json UnsealJson(const JsonKind& kind, std::string_view text, std::string_view source) {
  Json json = ParseJson(text, source);
  FieldReader fields(json, source);
  if (const std::string name = fields.String("kind"); name != kind.name) {
    throw Error("{}: expected \"{}\", got {}", fields.Where("kind"), kind.name, Printable(Json(name)));
  }
  if (const int64_t version = fields.Integer("version", 0, INT64_MAX); version != kind.version) {
    throw Error("{}: expected {}, got {}", fields.Where("version"), kind.version, version);
  }
  const std::string checksum = fields.String("checksum");
  json.erase("checksum");
  if (const std::string expected = ChecksumOf(json); checksum != expected) {
    throw Error("{}: expected {}, got {}: the file was changed after it was written",
                fields.Where("checksum"), expected, Printable(Json(checksum)));
  }
  json.erase("kind");
  json.erase("version");
  return json;
}

}  // namespace fiddler
