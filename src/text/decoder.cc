#include "text/decoder.h"

#include <cstdint>
#include <tuple>
#include <utility>

#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace fiddler::text {
namespace {

// The end of the chain.
class CollectStage final : public DecodeStage {
 public:
  explicit CollectStage(std::string& text) : text_(text) {}
  void Push(std::string_view piece) override { text_ += piece; }
  void Finish() override {}

 private:
  std::string& text_;
};

// A stage that hands its results to the next one.
class LinkedStage : public DecodeStage {
 public:
  explicit LinkedStage(DecodeStage& next) : next_(next) {}
  void Finish() override { next_.Finish(); }

 protected:
  void Pass(std::string_view piece) { next_.Push(piece); }

 private:
  DecodeStage& next_;
};

// Without a decoder: a space between tokens.
class JoinWithSpacesStage final : public LinkedStage {
 public:
  using LinkedStage::LinkedStage;
  void Push(std::string_view token) override {
    if (!is_first_) Pass(" ");
    is_first_ = false;
    Pass(token);
  }

 private:
  bool is_first_ = true;
};

// Makes one piece of all: for stages that must see the whole text.
class GatherStage final : public LinkedStage {
 public:
  using LinkedStage::LinkedStage;
  void Push(std::string_view piece) override { all_ += piece; }
  void Finish() override {
    Pass(all_);
    LinkedStage::Finish();
  }

 private:
  std::string all_;
};

// Tokens over the byte-level alphabet to text, U+FFFD for what is not UTF-8. Fuses the tokens.
class ByteLevelStage final : public LinkedStage {
 public:
  using LinkedStage::LinkedStage;

  void Push(std::string_view token) override {
    const std::optional<std::string> bytes = FromByteLevel(token);
    bytes_ += bytes ? *bytes : token;
    PassOn(/*complete=*/false);
  }

  void Finish() override {
    PassOn(/*complete=*/true);
    LinkedStage::Finish();
  }

 private:
  void PassOn(bool complete) {
    std::string text;
    bytes_.erase(0, DecodeLossy(bytes_, complete, text));
    if (!text.empty()) Pass(text);
  }

  std::string bytes_;  // not yet passed on: at most an unfinished character
};

// Runs of tokens such as <0xE2> to text. A run that is not UTF-8 as a whole becomes one U+FFFD per token, so
// that nothing of it is certain before it ends.
class ByteFallbackStage final : public LinkedStage {
 public:
  using LinkedStage::LinkedStage;

  void Push(std::string_view token) override {
    if (const std::optional<char> byte = ByteOf(token)) {
      run_ += *byte;
    } else {
      EndRun();
      Pass(token);
    }
  }

  void Finish() override {
    EndRun();
    LinkedStage::Finish();
  }

 private:
  static std::optional<char> ByteOf(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
    const std::optional<int> high = HexDigit(token[3]);
    const std::optional<int> low = HexDigit(token[4]);
    if (!high || !low) return std::nullopt;
    return static_cast<char>(*high << 4 | *low);
  }

  static std::optional<int> HexDigit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return std::nullopt;
  }

  void EndRun() {
    if (run_.empty()) return;
    if (IsValidUtf8(run_)) {
      Pass(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) Pass(kReplacementCharacter);
    }
    run_.clear();
  }

  std::string run_;
};

// Replacement characters to spaces, except in the first token, where they are dropped if encoding prepends
// one.
class MetaspaceStage final : public LinkedStage {
 public:
  MetaspaceStage(const MetaspaceOptions& options, DecodeStage& next) : LinkedStage(next), options_(options) {}

  void Push(std::string_view token) override {
    std::string text;
    const bool drops = is_first_ && options_.prepend_scheme != PrependScheme::kNever;
    for (size_t position = 0; position < token.size();) {
      const Utf8Char c = DecodeAt(token, position);
      if (c.code != options_.replacement) {
        text += token.substr(position, c.bytes);
      } else if (!drops) {
        text += ' ';
      }
      position += c.bytes;
    }
    is_first_ = false;
    Pass(text);
  }

 private:
  const MetaspaceOptions& options_;
  bool is_first_ = true;
};

struct Replacement {
  Pattern pattern;
  std::string content;
};

class ReplaceStage final : public LinkedStage {
 public:
  ReplaceStage(const Replacement& replacement, DecodeStage& next)
      : LinkedStage(next), replacement_(replacement) {}
  void Push(std::string_view token) override {
    Pass(ReplaceAll(token, replacement_.pattern.FindAll(token), replacement_.content));
  }

 private:
  const Replacement& replacement_;
};

struct StripOptions {
  std::string character;  // UTF-8
  size_t start;           // how many to take away in front of a token, at most
  size_t stop;            // and behind it
};

StripOptions StripFromField(const JsonField& field) {
  field.RefuseOthersThan({"type", "content", "start", "stop"});
  const auto count = [&](std::string_view name) {
    const int64_t value = field.At(name).Integer();
    if (value < 0) field.At(name).Fail("a number that is not negative");
    return static_cast<size_t>(value);
  };
  StripOptions options{.character = "", .start = count("start"), .stop = count("stop")};
  AppendUtf8(field.At("content").Character(), options.character);
  return options;
}

class StripStage final : public LinkedStage {
 public:
  StripStage(const StripOptions& options, DecodeStage& next) : LinkedStage(next), options_(options) {}
  void Push(std::string_view token) override {
    for (size_t i = 0; i < options_.start && token.starts_with(options_.character); ++i) {
      token.remove_prefix(options_.character.size());
    }
    for (size_t i = 0; i < options_.stop && token.ends_with(options_.character); ++i) {
      token.remove_suffix(options_.character.size());
    }
    Pass(token);
  }

 private:
  const StripOptions& options_;
};

// Strip with stop = 0 on a fused text needs no Gather.
class StripStartOfTextStage final : public LinkedStage {
 public:
  StripStartOfTextStage(const StripOptions& options, DecodeStage& next)
      : LinkedStage(next), character_(options.character), left_(options.start) {}

  void Push(std::string_view piece) override {
    while (left_ > 0 && !piece.empty()) {
      const bool strips = piece.starts_with(character_);
      if (strips) piece.remove_prefix(character_.size());
      left_ = strips ? left_ - 1 : 0;
    }
    Pass(piece);
  }

 private:
  const std::string& character_;
  size_t left_;  // how many may still be taken away
};

// Keeps the options of a stage and makes one for each stream.
template <typename Stage, typename... Options>
class MakerOf final : public DecodeStageMaker {
 public:
  explicit MakerOf(Options... options) : options_(std::move(options)...) {}

  std::unique_ptr<DecodeStage> Make(DecodeStage& next) const override {
    const auto make = [&](const Options&... options) { return std::make_unique<Stage>(options..., next); };
    return std::apply(make, options_);
  }

 private:
  std::tuple<Options...> options_;
};

}  // namespace

Decoder::Decoder(const std::optional<JsonField>& field) {
  if (field) {
    Read(*field);
  } else {
    Append<JoinWithSpacesStage>();
  }
}

template <typename Stage, typename... Options>
void Decoder::Append(Options... options) {
  chain_.push_back(std::make_unique<MakerOf<Stage, Options...>>(std::move(options)...));
}

template <typename Stage, typename... Options>
void Decoder::AppendForTokens(Options... options) {
  if (fused_) Append<GatherStage>();
  Append<Stage>(std::move(options)...);
}

void Decoder::Read(const JsonField& field) {
  const std::string& type = field.At("type").String();
  if (type == "Sequence") {
    field.RefuseOthersThan({"type", "decoders"});
    for (const JsonField& item : field.At("decoders").Items()) Read(item);
  } else if (type == "Fuse") {
    field.RefuseOthersThan({"type"});
    fused_ = true;
  } else if (type == "ByteLevel") {
    field.RefuseOthersThan({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    AppendForTokens<ByteLevelStage>();
    fused_ = true;
  } else if (type == "ByteFallback") {
    field.RefuseOthersThan({"type"});
    AppendForTokens<ByteFallbackStage>();
  } else if (type == "Metaspace") {
    AppendForTokens<MetaspaceStage>(MetaspaceOptions::FromField(field));
  } else if (type == "Replace") {
    field.RefuseOthersThan({"type", "pattern", "content"});
    AppendForTokens<ReplaceStage>(Replacement{Pattern(field.At("pattern")), field.At("content").String()});
  } else if (type == "Strip") {
    StripOptions options = StripFromField(field);
    if (fused_ && options.stop == 0) {
      Append<StripStartOfTextStage>(std::move(options));
    } else {
      AppendForTokens<StripStage>(std::move(options));
    }
  } else {
    field.At("type").Fail("Sequence, ByteLevel, ByteFallback, Metaspace, Replace, Strip or Fuse");
  }
}

DecodeStream Decoder::Start() const {
  DecodeStream stream;
  stream.text_ = std::make_unique<std::string>();
  stream.stages_.push_back(std::make_unique<CollectStage>(*stream.text_));
  for (auto maker = chain_.rbegin(); maker != chain_.rend(); ++maker) {
    stream.stages_.push_back((*maker)->Make(*stream.stages_.back()));
  }
  return stream;
}

void DecodeStream::Push(std::string_view token) { stages_.back()->Push(token); }

void DecodeStream::Finish() { stages_.back()->Finish(); }

std::string DecodeStream::TakeText() { return std::exchange(*text_, {}); }

}  // namespace fiddler::text
