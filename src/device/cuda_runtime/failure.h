// How the CUDA plugin says that something failed: std::runtime_error with one line. In the manner of printf,
// because the plugin links nothing but the C library; whoever calls it gets a status and the text (plugin.h).
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace fiddler::cuda {

[[noreturn, gnu::format(printf, 1, 2)]] inline void Fail(const char* format, ...) {
  constexpr size_t kLongest = 512;
  char text[kLongest];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw std::runtime_error(text);
}

// "24.0 GiB"
inline std::string SizeText(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
  auto size = static_cast<double>(bytes);
  int unit = 0;
  for (; size >= 1024 && unit < 3; ++unit) size /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", size, kUnits[unit]);
  return text;
}

}  // namespace fiddler::cuda
