// The `post_processor` of tokenizer.json: which special tokens go around a text.
// Known: TemplateProcessing (its template for a single text), ByteLevel (which changes no ids), and a
// Sequence with at most one template. Immutable, safe from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "text/json_field.h"

namespace fiddler::text {

class PostProcessor {
 public:
  // `id_end`: the largest id that names a token + 1; templates may add no other.
  PostProcessor(const std::optional<JsonField>& field, int32_t id_end);

  std::vector<int32_t> Apply(std::vector<int32_t> ids, bool add_special_tokens) const;

 private:
  void Read(const JsonField& field, int32_t id_end);
  void ReadTemplate(const JsonField& field, int32_t id_end);

  struct Piece {
    bool is_text;  // the text stands here, else:
    std::vector<int32_t> special_ids;
  };
  std::vector<Piece> template_;
  bool has_template_ = false;
};

}  // namespace fiddler::text
