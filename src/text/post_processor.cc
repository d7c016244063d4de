#include "text/post_processor.h"

#include <fmt/format.h>

namespace fiddler::text {
namespace {

std::vector<int32_t> IdsOf(const JsonField& special_token, int32_t id_end) {
  std::vector<int32_t> ids;
  for (const JsonField& id : special_token.At("ids").Items()) {
    if (id.Integer() < 0 || id.Integer() >= id_end) id.Fail(fmt::format("an id from 0 to {}", id_end - 1));
    ids.push_back(static_cast<int32_t>(id.Integer()));
  }
  return ids;
}

}  // namespace

PostProcessor::PostProcessor(const std::optional<JsonField>& field, int32_t id_end) {
  if (field) Read(*field, id_end);
}

void PostProcessor::Read(const JsonField& field, int32_t id_end) {
  const std::string& type = field.At("type").String();
  if (type == "Sequence") {
    field.RefuseOthersThan({"type", "processors"});
    for (const JsonField& item : field.At("processors").Items()) Read(item, id_end);
  } else if (type == "ByteLevel") {
    field.RefuseOthersThan({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "TemplateProcessing") {
    if (has_template_) field.Fail("one TemplateProcessing", "a second one");
    ReadTemplate(field, id_end);
    has_template_ = true;
  } else {
    field.At("type").Fail("Sequence, ByteLevel or TemplateProcessing");
  }
}

void PostProcessor::ReadTemplate(const JsonField& field, int32_t id_end) {
  field.RefuseOthersThan({"type", "single", "pair", "special_tokens"});
  for (const JsonField& piece : field.At("single").Items()) {
    piece.RefuseOthersThan({"Sequence", "SpecialToken"});
    const auto special = piece.Find("SpecialToken");
    if (special) {
      special->RefuseOthersThan({"id", "type_id"});
      const std::string& name = special->At("id").String();
      template_.push_back(
          {.is_text = false, .special_ids = IdsOf(field.At("special_tokens").At(name), id_end)});
    } else {
      const JsonField sequence = piece.At("Sequence");
      sequence.RefuseOthersThan({"id", "type_id"});
      if (sequence.At("id").String() != "A") sequence.At("id").Fail("A");
      template_.push_back({.is_text = true, .special_ids = {}});
    }
  }
}

std::vector<int32_t> PostProcessor::Apply(std::vector<int32_t> ids, bool add_special_tokens) const {
  if (!has_template_) return ids;
  std::vector<int32_t> processed;
  for (const Piece& piece : template_) {
    if (piece.is_text) {
      processed.insert(processed.end(), ids.begin(), ids.end());
    } else if (add_special_tokens) {
      processed.insert(processed.end(), piece.special_ids.begin(), piece.special_ids.end());
    }
  }
  return processed;
}

}  // namespace fiddler::text
