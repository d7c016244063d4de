#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace fiddler {

void CheckFailed(const char* file, int line, const char* condition, std::string_view note) {
  fmt::print(stderr, "{}:{}: CHECK({}) failed{}{}\n", file, line, condition, note.empty() ? "" : ": ", note);
  std::fflush(stderr);
  std::abort();
}

}  // namespace fiddler
