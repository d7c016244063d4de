// Normalizers, pre-tokenizers and decoders one by one against Hugging Face `tokenizers`
// (tests/oracle/tokenizer/components.json, made by tests/oracle/tokenizer_components.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace fiddler::text {
namespace {

Json ReadComponents() {
  const std::filesystem::path path =
      std::filesystem::path(FIDDLER_SOURCE_DIR) / "tests/oracle/tokenizer/components.json";
  return ParseJson(ReadFile(path, size_t{16} << 20), path.string());
}

const Json& Components() {
  static const Json components = ReadComponents();
  return components;
}

std::optional<JsonField> FieldOf(const Json& config) {
  if (config.is_null()) return std::nullopt;
  return JsonField(config, "test");
}

std::string Ascii(const Json& value) { return value.dump(-1, ' ', /*ensure_ascii=*/true); }

TEST(ComponentsGolden, Normalizers) {
  for (const Json& entry : Components()["normalizers"]) {
    SCOPED_TRACE(Ascii(entry[0]));
    const Normalizer normalizer(FieldOf(entry[0]));
    ASSERT_FALSE(entry[1].empty());
    for (const Json& pair : entry[1]) {
      TextPart part{.text = pair[0]};
      normalizer.Apply(part);
      EXPECT_EQ(part.text, pair[1]) << Ascii(pair[0]);
    }
  }
}

TEST(ComponentsGolden, PreTokenizers) {
  for (const Json& entry : Components()["pre_tokenizers"]) {
    SCOPED_TRACE(Ascii(entry[0]));
    const PreTokenizer pre_tokenizer(FieldOf(entry[0]));
    ASSERT_FALSE(entry[1].empty());
    for (const Json& pair : entry[1]) {
      const Words words = pre_tokenizer.Apply({.text = pair[0]});
      std::vector<std::string> strings;
      for (size_t i = 0; i < words.size(); ++i) strings.emplace_back(words[i]);
      EXPECT_EQ(strings, pair[1].get<std::vector<std::string>>()) << Ascii(pair[0]);
    }
  }
}

TEST(ComponentsGolden, Decoders) {
  for (const Json& entry : Components()["decoders"]) {
    SCOPED_TRACE(Ascii(entry[0]));
    const Decoder decoder(FieldOf(entry[0]));
    ASSERT_FALSE(entry[1].empty());
    for (const Json& pair : entry[1]) {
      DecodeStream stream = decoder.Start();
      for (const Json& token : pair[0]) stream.Push(token.get_ref<const std::string&>());
      stream.Finish();
      EXPECT_EQ(stream.TakeText(), pair[1]) << Ascii(pair[0]);
    }
  }
}

}  // namespace
}  // namespace fiddler::text
