// Options of Metaspace, which is both a pre-tokenizer and a decoder: spaces written as a visible character.
#pragma once

#include <string>

#include "text/json_field.h"

namespace fiddler::text {

enum class PrependScheme { kFirst, kNever, kAlways };  // which words get a replacement character in front

struct MetaspaceOptions {
  char32_t replacement;  // usually U+2581 "▁"
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool split = true;

  static MetaspaceOptions FromField(const JsonField& field);
};

}  // namespace fiddler::text
