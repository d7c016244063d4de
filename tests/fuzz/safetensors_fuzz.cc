// Any bytes are either refused with one clear line, or a layout whose every view is inside the file.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

void Check(std::span<const uint8_t> file) {
  try {
    CheckLayout(ParseSafetensorsHeader(std::as_bytes(file), "input"), file.size());
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Check({data, size});
  // Most mutations move the end of the header away from where its length says: once more with the length that
  // reaches to the last '}', so that more of them get to the JSON and behind it.
  std::vector<uint8_t> repaired(data, data + size);
  const auto last = std::find(repaired.rbegin(), repaired.rend(), '}');
  const auto end = static_cast<size_t>(repaired.rend() - last);
  if (end <= 8) return 0;
  for (size_t i = 0; i < 8; ++i) repaired[i] = static_cast<uint8_t>((end - 8) >> (8 * i));
  Check(repaired);
  return 0;
}
