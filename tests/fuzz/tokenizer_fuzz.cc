// Fuzzes the tokenizer. The first byte chooses: 0 reads the rest as a tokenizer.json, 1 to 3 give the rest as
// text and as ids to a tokenizer of that family. An Error is a fine answer to a bad file; anything else is a
// bug.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "text/byte_level.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace fiddler {
namespace {

constexpr const char* kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json Added(size_t id, const char* content, bool special) {
  return {{"id", id},
          {"content", content},
          {"special", special},
          {"normalized", !special},
          {"single_word", false},
          {"lstrip", !special},
          {"rstrip", special}};
}

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", use_regex},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json ByteLevelFile(const Json& pre_tokenizer) {
  Json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    text::AppendByteLevel(std::string(1, static_cast<char>(byte)), character);
    vocab[character] = byte;
  }
  vocab["aa"] = 256;
  vocab["aaaa"] = 257;
  vocab["Ġa"] = 258;
  return {{"added_tokens", {Added(259, "<|end|>", true), Added(260, "  ", false)}},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", pre_tokenizer},
          {"decoder", ByteLevel(false)},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a a", "aa aa", "Ġ a"}}}}};
}

Json QwenFile() {
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kQwenPattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  return ByteLevelFile({{"type", "Sequence"}, {"pretokenizers", {split, ByteLevel(false)}}});
}

Json LlamaFile() {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"▁", 2}, {"a", 3}, {"b", 4}, {"ab", 5}, {"▁a", 6}, {"▁ab", 7}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 8 + byte;
  const Json to_space = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  return {{"added_tokens", {Added(0, "<unk>", true), Added(1, "<s>", true)}},
          {"pre_tokenizer",
           {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders", {to_space, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", {"a b", "▁ a", "▁a b", "▁ ab"}}}}};
}

void CheckDecoding(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special_tokens) {
  const std::string text = tokenizer.Decode(ids, skip_special_tokens);
  CHECK(text::IsValidUtf8(text));
  StreamDecoder stream(tokenizer, skip_special_tokens);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = stream.Push(id);
    CHECK(text::IsValidUtf8(piece));
    streamed += piece;
  }
  CHECK(streamed + stream.Flush() == text);
}

void CheckTokenizer(const Tokenizer& tokenizer, std::string_view bytes) {
  const std::vector<int32_t> encoded = tokenizer.Encode(bytes, /*add_special_tokens=*/true);
  for (const int32_t id : encoded) CHECK(id >= 0 && id < tokenizer.vocab_size());
  std::vector<int32_t> any_ids;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    any_ids.push_back(static_cast<uint8_t>(bytes[i]) | (bytes[i + 1] & 3) << 8);
  }
  for (const bool skip_special_tokens : {false, true}) {
    CheckDecoding(tokenizer, encoded, skip_special_tokens);
    CheckDecoding(tokenizer, any_ids, skip_special_tokens);
  }
}

void RunOne(uint8_t choice, std::string_view bytes) {
  static const std::array<Tokenizer, 3> tokenizers = {
      Tokenizer::FromJson(ByteLevelFile(ByteLevel(true)), "gpt2"), Tokenizer::FromJson(QwenFile(), "qwen"),
      Tokenizer::FromJson(LlamaFile(), "llama")};
  constexpr std::string_view kSample = " <s>Hello, aab 123 \xC3\xA9\xFF\r\n\t <|end|>\xF0\x9F\x98\x80";
  if (choice % 4 == 0) {
    CheckTokenizer(Tokenizer::FromJson(ParseJson(bytes, "input"), "input"), kSample);
  } else {
    CheckTokenizer(tokenizers[choice % 4u - 1], bytes);
  }
}

}  // namespace
}  // namespace fiddler

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    fiddler::RunOne(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const fiddler::Error&) {  // refused, as it should be
  }
  return 0;
}
