// CHECK: an invariant of ours that must hold; prints the condition, where it is and a note, then aborts.
// User input never reaches a CHECK: it is validated before and reported with Error (error.h).
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace fiddler {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, std::string_view note);

}  // namespace fiddler

#define CHECK(condition, ...)                                                                \
  do {                                                                                       \
    if (!(condition)) [[unlikely]] {                                                         \
      ::fiddler::CheckFailed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                        \
  } while (false)
