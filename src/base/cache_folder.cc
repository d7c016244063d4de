#include "base/cache_folder.h"

#include <cstdlib>

#include "base/error.h"

namespace fiddler {

std::filesystem::path CacheFolder(std::string_view option) {
  const auto folder = [](const char* variable) -> std::filesystem::path {
    const char* value = std::getenv(variable);
    return value ? value : "";
  };
  // Relative paths are to be ignored (XDG Base Directory Specification 0.8).
  if (folder("XDG_CACHE_HOME").is_absolute()) return folder("XDG_CACHE_HOME") / "fiddler";
  if (folder("HOME").is_absolute()) return folder("HOME") / ".cache" / "fiddler";
  throw Error(
      "XDG_CACHE_HOME, HOME: expected the absolute path of a folder in one of them, got neither; {} names "
      "another place",
      option);
}

}  // namespace fiddler
