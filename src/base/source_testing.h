// For tests: where the files of the repository are, also for a test that was built elsewhere.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace fiddler {

inline std::filesystem::path SourceDir() {
  const char* const here = std::getenv("FIDDLER_SOURCE_DIR");
  return here != nullptr ? here : FIDDLER_SOURCE_DIR;
}

}  // namespace fiddler
