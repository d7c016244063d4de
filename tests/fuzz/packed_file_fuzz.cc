// Any bytes are either refused with one clear line, or the very header that is written for what they say.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "experts/packed_header.h"

namespace {

using namespace fiddler;

void CheckMessage(std::string_view message) {
  CHECK(message.starts_with("input: "), "{}", message);
  for (const char c : message) CHECK(c >= ' ' && c <= '~', "not one line of ASCII: {}", message);
  CHECK(message.find("expected") != std::string::npos && message.find("got") != std::string::npos, "{}",
        message);
}

// The size of the file is what the header asks for, where that is a number at all, so that more of them pass.
void Check(std::span<const std::byte> start, uint64_t file_bytes) {
  try {
    const PackedHeader header = ParsePackedHeader(start, file_bytes, "input");
    const std::string again = SerializePackedHeader(header);
    CHECK(again.size() == header.data_begin() && header.bytes() <= start.size());
    CHECK(std::string_view(again).substr(0, header.bytes()) ==
          std::string_view(reinterpret_cast<const char*>(start.data()), header.bytes()));
    CHECK(header.file_bytes() == file_bytes, "{} of {}", header.file_bytes(), file_bytes);
    CHECK(header.checksums.size() == static_cast<size_t>(header.count()));
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
}

uint64_t NumberAt(std::span<const std::byte> bytes, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 8; i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[offset + i]);
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> file(size);
  for (size_t i = 0; i < size; ++i) file[i] = static_cast<std::byte>(data[i]);
  Check(file, size);
  // Nearly every mutation breaks the checksum: once more with the right one, and with the size that goes with
  // the numbers of the header (packed_header.h).
  constexpr size_t kFixed = PackedHeader::kFixedBytes;
  if (size < kFixed) return 0;
  const uint64_t header_bytes = NumberAt(file, 16);
  if (header_bytes < kFixed + 8 || header_bytes > size) return 0;
  const uint64_t sum = Checksum64(std::span(file).first(header_bytes - 8));
  for (size_t i = 0; i < 8; ++i) file[header_bytes - 8 + i] = static_cast<std::byte>(sum >> (8 * i));
  const uint64_t layers = NumberAt(file, 48) & 0xffffffffu;
  const uint64_t experts = NumberAt(file, 48) >> 32;
  Check(file, NumberAt(file, 64) + layers * experts * NumberAt(file, 56));
  return 0;
}
