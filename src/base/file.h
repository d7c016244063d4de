// Small files read whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace fiddler {

// All there is to read: a file, a pipe, a device. Throws Error if it cannot be read or is larger than
// max_bytes.
std::string ReadFile(const std::filesystem::path& path, size_t max_bytes);

}  // namespace fiddler
