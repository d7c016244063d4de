// The `normalizer` of tokenizer.json: rewrites text before it is cut into words.
// Known: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace. Immutable, safe from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/json_field.h"

namespace fiddler::text {

// The most bytes a text may have, as it comes and after every step: positions in a word are 32 bits.
inline constexpr size_t kMaxTextBytes = size_t{1} << 30;

// A part of the input on its way to becoming tokens.
struct TextPart {
  std::string text;          // valid UTF-8
  bool starts_input = true;  // its first character comes from the first of the input (Metaspace asks)
};

class NormalizerStep {
 public:
  explicit NormalizerStep(const JsonField& field) : where_(field.Where()) {}
  virtual ~NormalizerStep() = default;
  void Apply(TextPart& part) const;  // throws Error, naming the step, if more than kMaxTextBytes come out

 protected:
  virtual void Rewrite(TextPart& part) const = 0;
  void CheckSize(size_t bytes) const;  // of what comes out: where it is known before it needs the memory

 private:
  std::string where_;  // "tokenizer.json: normalizer.normalizers[3]"
};

class Normalizer {
 public:
  explicit Normalizer(const std::optional<JsonField>& field);  // without one, text stays as it is

  void Apply(TextPart& part) const;  // throws Error if a step makes too much of it

 private:
  std::vector<std::unique_ptr<const NormalizerStep>> steps_;
};

}  // namespace fiddler::text
