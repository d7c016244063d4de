// Any bytes are either refused with one clear line, or a layout whose every view is inside the file.
#include <cstdint>
#include <span>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "io/safetensors.h"

namespace {

using namespace fiddler;

void CheckLayout(const SafetensorsHeader& header, size_t file_bytes) {
  CHECK(header.data_begin <= file_bytes);
  size_t end = 0;
  for (const TensorEntry& tensor : header.tensors) {
    size_t bytes = DTypeBytes(tensor.dtype);
    for (const int64_t dimension : tensor.shape) {
      CHECK(dimension >= 0, "{}", tensor.name);
      CHECK(!__builtin_mul_overflow(bytes, static_cast<size_t>(dimension), &bytes), "{}", tensor.name);
    }
    CHECK(tensor.begin == end && tensor.end - tensor.begin == bytes, "{}", tensor.name);
    end = tensor.end;
  }
  CHECK(end == file_bytes - header.data_begin);
}

void CheckMessage(const std::string& message) {
  CHECK(message.starts_with("input: "), "{}", message);
  for (const char c : message) CHECK(c >= ' ' && c <= '~', "not one line of ASCII: {}", message);
  CHECK(message.find("expected") != std::string::npos && message.find("got") != std::string::npos, "{}",
        message);
  CHECK(message.size() < 500, "{}", message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  try {
    CheckLayout(ParseSafetensorsHeader(file, "input"), size);
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
  return 0;
}
