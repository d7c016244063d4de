#include "text/pre_tokenizer.h"

#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

// GPT-2's own expression, which ByteLevel uses unless told otherwise.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The characters of `word` for which `matches(code)` holds, each a match of its own.
template <typename Matches>
std::vector<Span> FindCharacters(std::string_view word, const Matches& matches) {
  std::vector<Span> found;
  for (size_t position = 0; position < word.size();) {
    const Utf8Char c = DecodeAt(word, position);
    if (matches(c.code)) found.push_back({position, position + c.bytes});
    position += c.bytes;
  }
  return found;
}

class ByteLevelStep final : public PreTokenizerStep {
 public:
  explicit ByteLevelStep(const JsonField& field) {
    field.RefuseOthersThan({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    add_prefix_space_ = field.At("add_prefix_space").Bool();
    if (field.Bool("use_regex", true)) regex_.emplace(kGpt2Pattern, field.Where());
  }

  void Apply(Words& words) const override {
    if (add_prefix_space_) {
      words.RewriteEach([](size_t, std::string_view word, std::string& out) {
        if (!word.starts_with(' ')) out += ' ';
        out += word;
      });
    }
    if (regex_) {
      words.SplitEach([&](std::string_view word) {
        return SplitAt(regex_->FindAll(word), word.size(), SplitBehavior::kIsolated);
      });
    }
    words.RewriteEach([](size_t, std::string_view word, std::string& out) { AppendByteLevel(word, out); });
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class MetaspaceStep final : public PreTokenizerStep {
 public:
  explicit MetaspaceStep(const JsonField& field) : options_(MetaspaceOptions::FromField(field)) {
    AppendUtf8(options_.replacement, replacement_);
  }

  void Apply(Words& words) const override {
    words.RewriteEach([&](size_t i, std::string_view word, std::string& out) {
      const bool has_prefix = word.starts_with(' ') || word.starts_with(replacement_);
      if (!has_prefix && Prepends(words.StartsInput(i))) out += replacement_;
      for (const char c : word) {
        if (c == ' ') {
          out += replacement_;
        } else {
          out += c;
        }
      }
    });
    if (!options_.split) return;
    const auto is_replacement = [&](char32_t code) { return code == options_.replacement; };
    words.SplitEach([&](std::string_view word) {
      return SplitAt(FindCharacters(word, is_replacement), word.size(), SplitBehavior::kMergedWithNext);
    });
  }

 private:
  bool Prepends(bool starts_input) const {
    if (options_.prepend_scheme == PrependScheme::kFirst) return starts_input;
    return options_.prepend_scheme == PrependScheme::kAlways;
  }

  MetaspaceOptions options_;
  std::string replacement_;
};

SplitBehavior BehaviorFromField(const JsonField& field) {
  const std::string& name = field.String();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  field.Fail("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

class SplitStep final : public PreTokenizerStep {
 public:
  explicit SplitStep(const JsonField& field)
      : pattern_(field.At("pattern")),
        behavior_(BehaviorFromField(field.At("behavior"))),
        invert_(field.At("invert").Bool()) {
    field.RefuseOthersThan({"type", "pattern", "behavior", "invert"});
  }

  void Apply(Words& words) const override {
    words.SplitEach([&](std::string_view word) {
      return SplitAt(pattern_.FindAll(word), word.size(), behavior_, invert_);
    });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Digits, Punctuation and WhitespaceSplit: cut at the characters of a kind.
class CharacterStep final : public PreTokenizerStep {
 public:
  CharacterStep(bool (*is_delimiter)(char32_t), SplitBehavior behavior)
      : is_delimiter_(is_delimiter), behavior_(behavior) {}

  void Apply(Words& words) const override {
    words.SplitEach([&](std::string_view word) {
      return SplitAt(FindCharacters(word, is_delimiter_), word.size(), behavior_);
    });
  }

 private:
  bool (*is_delimiter_)(char32_t);
  SplitBehavior behavior_;
};

// Whitespace: runs of word characters, and runs of what is neither word nor space (\w+|[^\w\s]+).
class WhitespaceStep final : public PreTokenizerStep {
 public:
  void Apply(Words& words) const override {
    words.SplitEach([](std::string_view word) {
      std::vector<Span> runs;
      Kind previous = Kind::kSpace;
      for (size_t position = 0; position < word.size();) {
        const Utf8Char c = DecodeAt(word, position);
        const size_t end = position + c.bytes;
        const Kind kind = KindOf(c.code);
        if (kind != Kind::kSpace) {
          if (kind == previous) {
            runs.back().end = end;
          } else {
            runs.push_back({position, end});
          }
        }
        previous = kind;
        position = end;
      }
      return runs;
    });
  }

 private:
  enum class Kind { kSpace, kWord, kOther };
  static Kind KindOf(char32_t code) {
    if (IsWord(code)) return Kind::kWord;
    return IsWhitespace(code) ? Kind::kSpace : Kind::kOther;
  }
};

using Steps = std::vector<std::unique_ptr<const PreTokenizerStep>>;

void AppendSteps(const JsonField& field, Steps& steps) {
  const std::string& type = field.At("type").String();
  if (type == "Sequence") {
    field.RefuseOthersThan({"type", "pretokenizers"});
    for (const JsonField& item : field.At("pretokenizers").Items()) AppendSteps(item, steps);
  } else if (type == "ByteLevel") {
    steps.push_back(std::make_unique<ByteLevelStep>(field));
  } else if (type == "Metaspace") {
    steps.push_back(std::make_unique<MetaspaceStep>(field));
  } else if (type == "Split") {
    steps.push_back(std::make_unique<SplitStep>(field));
  } else if (type == "Digits") {
    field.RefuseOthersThan({"type", "individual_digits"});
    const bool individual = field.At("individual_digits").Bool();
    steps.push_back(std::make_unique<CharacterStep>(
        IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    field.RefuseOthersThan({"type", "behavior"});
    const auto behavior = field.Find("behavior");
    steps.push_back(std::make_unique<CharacterStep>(
        IsPunctuation, behavior ? BehaviorFromField(*behavior) : SplitBehavior::kIsolated));
  } else if (type == "Whitespace") {
    field.RefuseOthersThan({"type"});
    steps.push_back(std::make_unique<WhitespaceStep>());
  } else if (type == "WhitespaceSplit") {
    field.RefuseOthersThan({"type"});
    steps.push_back(std::make_unique<CharacterStep>(IsWhitespace, SplitBehavior::kRemoved));
  } else {
    field.At("type").Fail(
        "Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace or WhitespaceSplit");
  }
}

}  // namespace

Words::Words(TextPart part) : text_(std::move(part.text)), first_starts_input_(part.starts_input) {
  if (!text_.empty()) words_.push_back({0, text_.size()});
}

PreTokenizer::PreTokenizer(const std::optional<JsonField>& field) {
  if (field) AppendSteps(*field, steps_);
}

Words PreTokenizer::Apply(TextPart part) const {
  Words words(std::move(part));
  for (const auto& step : steps_) step->Apply(words);
  return words;
}

}  // namespace fiddler::text
