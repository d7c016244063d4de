#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace fiddler::text {
namespace {

constexpr int kNumBytes = 256;
constexpr int kNumCharacters = 324;  // U+0000..U+0143: 68 bytes are not printable

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, kNumBytes> CharacterOfByte() {
  std::array<char32_t, kNumBytes> characters{};
  char32_t next = 0x100;
  for (int byte = 0; byte < kNumBytes; ++byte) {
    characters[static_cast<size_t>(byte)] = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}
constexpr std::array<char32_t, kNumBytes> kCharacterOfByte = CharacterOfByte();

constexpr std::array<int16_t, kNumCharacters> ByteOfCharacter() {
  std::array<int16_t, kNumCharacters> bytes{};
  bytes.fill(-1);
  for (size_t byte = 0; byte < kNumBytes; ++byte) bytes[kCharacterOfByte[byte]] = static_cast<int16_t>(byte);
  return bytes;
}
constexpr std::array<int16_t, kNumCharacters> kByteOfCharacter = ByteOfCharacter();

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) AppendUtf8(kCharacterOfByte[static_cast<uint8_t>(byte)], out);
}

std::optional<std::string> FromByteLevel(std::string_view token) {
  std::string bytes;
  for (size_t position = 0; position < token.size();) {
    const Utf8Char c = DecodeAt(token, position);
    if (c.code >= kNumCharacters || kByteOfCharacter[c.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kByteOfCharacter[c.code]));
    position += c.bytes;
  }
  return bytes;
}

}  // namespace fiddler::text
