#include "text/metaspace.h"

namespace fiddler::text {
namespace {

PrependScheme SchemeFromField(const JsonField& field) {
  const std::string& name = field.String();
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  if (name == "always") return PrependScheme::kAlways;
  field.Fail("first, never or always");
}

}  // namespace

MetaspaceOptions MetaspaceOptions::FromField(const JsonField& field) {
  field.RefuseOthersThan({"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  MetaspaceOptions options{.replacement = field.At("replacement").Character()};
  if (const auto scheme = field.Find("prepend_scheme")) options.prepend_scheme = SchemeFromField(*scheme);
  options.split = field.Bool("split", true);
  // Files written before prepend_scheme existed have add_prefix_space; true means what the default does.
  const auto add_prefix_space = field.Find("add_prefix_space");
  if (add_prefix_space && !add_prefix_space->Bool() && options.prepend_scheme != PrependScheme::kNever) {
    add_prefix_space->Fail("true, or prepend_scheme never");
  }
  return options;
}

}  // namespace fiddler::text
