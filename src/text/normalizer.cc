#include "text/normalizer.h"

#include "base/error.h"
#include "text/normal_form.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

class NormalFormStep final : public NormalizerStep {
 public:
  NormalFormStep(const JsonField& field, NormalForm form) : NormalizerStep(field), form_(form) {}
  void Rewrite(TextPart& part) const override { part.text = Normalize(part.text, form_); }

 private:
  NormalForm form_;
};

class LowercaseStep final : public NormalizerStep {
 public:
  using NormalizerStep::NormalizerStep;
  void Rewrite(TextPart& part) const override { part.text = Lowercase(part.text); }
};

class StripStep final : public NormalizerStep {
 public:
  explicit StripStep(const JsonField& field)
      : NormalizerStep(field), left_(field.At("strip_left").Bool()), right_(field.At("strip_right").Bool()) {
    field.RefuseOthersThan({"type", "strip_left", "strip_right"});
  }

  void Rewrite(TextPart& part) const override {
    std::string_view kept = part.text;
    while (right_ && !kept.empty() && IsWhitespace(DecodeLast(kept).code)) {
      kept.remove_suffix(DecodeLast(kept).bytes);
    }
    while (left_ && !kept.empty() && IsWhitespace(DecodeAt(kept, 0).code)) {
      kept.remove_prefix(DecodeAt(kept, 0).bytes);
      part.starts_input = false;
    }
    part.text = std::string(kept);
  }

 private:
  bool left_;
  bool right_;
};

class PrependStep final : public NormalizerStep {
 public:
  explicit PrependStep(const JsonField& field)
      : NormalizerStep(field), prefix_(field.At("prepend").String()) {
    field.RefuseOthersThan({"type", "prepend"});
  }

  void Rewrite(TextPart& part) const override {
    if (!part.text.empty()) part.text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ReplaceStep final : public NormalizerStep {
 public:
  explicit ReplaceStep(const JsonField& field)
      : NormalizerStep(field), pattern_(field.At("pattern")), content_(field.At("content").String()) {
    field.RefuseOthersThan({"type", "pattern", "content"});
  }

  void Rewrite(TextPart& part) const override {
    const std::vector<Span> matches = pattern_.FindAll(part.text);
    if (matches.empty()) return;
    size_t bytes = part.text.size() + matches.size() * content_.size();
    for (const Span& match : matches) bytes -= match.end - match.begin;
    CheckSize(bytes);
    part.starts_input = part.starts_input && KeepsFirstCharacter(part.text, matches.front());
    part.text = ReplaceAll(part.text, matches, content_);
  }

 private:
  // The replacement stands for the last character it replaces.
  bool KeepsFirstCharacter(std::string_view text, Span match) const {
    if (match.begin > 0 || match.end == 0) return true;
    return !content_.empty() && match.end == DecodeAt(text, 0).bytes;
  }

  Pattern pattern_;
  std::string content_;
};

using Steps = std::vector<std::unique_ptr<const NormalizerStep>>;

void AppendSteps(const JsonField& field, Steps& steps) {
  const std::string& type = field.At("type").String();
  const auto takes_no_options = [&] { field.RefuseOthersThan({"type"}); };
  if (type == "Sequence") {
    field.RefuseOthersThan({"type", "normalizers"});
    for (const JsonField& item : field.At("normalizers").Items()) AppendSteps(item, steps);
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    takes_no_options();
    const NormalForm form = type == "NFC"    ? NormalForm::kNfc
                            : type == "NFD"  ? NormalForm::kNfd
                            : type == "NFKC" ? NormalForm::kNfkc
                                             : NormalForm::kNfkd;
    steps.push_back(std::make_unique<NormalFormStep>(field, form));
  } else if (type == "Lowercase") {
    takes_no_options();
    steps.push_back(std::make_unique<LowercaseStep>(field));
  } else if (type == "Strip") {
    steps.push_back(std::make_unique<StripStep>(field));
  } else if (type == "Prepend") {
    steps.push_back(std::make_unique<PrependStep>(field));
  } else if (type == "Replace") {
    steps.push_back(std::make_unique<ReplaceStep>(field));
  } else {
    field.At("type").Fail("Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend or Replace");
  }
}

}  // namespace

void NormalizerStep::Apply(TextPart& part) const {
  Rewrite(part);
  CheckSize(part.text.size());
}

void NormalizerStep::CheckSize(size_t bytes) const {
  if (bytes <= kMaxTextBytes) return;
  throw Error("{}: expected at most {} bytes of text to come out, got {}", where_, kMaxTextBytes, bytes);
}

Normalizer::Normalizer(const std::optional<JsonField>& field) {
  if (field) AppendSteps(*field, steps_);
}

void Normalizer::Apply(TextPart& part) const {
  for (const auto& step : steps_) step->Apply(part);
}

}  // namespace fiddler::text
