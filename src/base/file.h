// Files read or written whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace fiddler {

// All there is to read: a file, a pipe, a device. Throws Error if it cannot be read or is larger than
// max_bytes.
std::string ReadFile(const std::filesystem::path& path, size_t max_bytes);

// Writes a new file beside `path`, waits until it is on the disk and renames it to `path`: whoever opens
// `path`, also after a crash, finds what was there before or all of `bytes`. A link is followed. Throws Error
// if that fails or `path` is there and no regular file; then `path` is as it was, and no other file is left.
void WriteFileAtomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace fiddler
