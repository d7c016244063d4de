// The one exception type of Fiddler: outside input (a file, a request, the machine) was not what it must be.
// The message is one line for the user and names file, tensor or field, what was expected and what was found.
// It is caught in exactly two places: main() and the per-request boundary. Our own bugs use CHECK (check.h).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace fiddler {

class Error : public std::runtime_error {
 public:
  template <typename... Args>
  explicit Error(fmt::format_string<Args...> format, Args&&... args)
      : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)) {}
};

}  // namespace fiddler
