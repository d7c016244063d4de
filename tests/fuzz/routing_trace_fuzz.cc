// Any bytes are either refused with one clear line, or the very file that is written for the trace they are.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "sim/routing_trace.h"

namespace {

using namespace fiddler;

void CheckMessage(std::string_view message) {
  CHECK(message.starts_with("input: "), "{}", message);
  for (const char c : message) CHECK(c >= ' ' && c <= '~', "not one line of ASCII: {}", message);
  CHECK(message.find("expected") != std::string::npos && message.find("got") != std::string::npos, "{}",
        message);
}

void Check(std::string_view file) {
  try {
    CHECK(SerializeRoutingTrace(ParseRoutingTrace(file, "input")) == file);
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file(reinterpret_cast<const char*>(data), size);
  Check(file);
  // Nearly every mutation breaks the checksum: once more with the right one, FNV-1a as routing_trace.h says.
  constexpr size_t kChecksumBytes = 8;
  if (size < kChecksumBytes) return 0;
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < size - kChecksumBytes; ++i) hash = (hash ^ data[i]) * 1099511628211u;
  for (size_t i = 0; i < kChecksumBytes; ++i) {
    file[size - kChecksumBytes + i] = static_cast<char>(hash >> (8 * i));
  }
  Check(file);
  return 0;
}
