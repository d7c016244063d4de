// The `normalizer` of tokenizer.json: rewrites text before it is cut into words.
// Known: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace. Immutable, safe from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/json_field.h"

namespace fiddler::text {

// A part of the input on its way to becoming tokens.
struct TextPart {
  std::string text;          // valid UTF-8
  bool starts_input = true;  // its first character comes from the first of the input (Metaspace asks)
};

class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  virtual void Apply(TextPart& part) const = 0;
};

class Normalizer {
 public:
  explicit Normalizer(const std::optional<JsonField>& field);  // without one, text stays as it is

  void Apply(TextPart& part) const;

 private:
  std::vector<std::unique_ptr<const NormalizerStep>> steps_;
};

}  // namespace fiddler::text
