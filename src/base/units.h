// Sizes and rates as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fiddler {

// "24GiB", "512MiB", "1.5GiB", "4096" (bytes). Throws Error naming `what` if it is not a size.
uint64_t ParseBytes(std::string_view text, std::string_view what);

std::string FormatBytes(uint64_t bytes);  // "24.0 GiB", "512.0 MiB", "17 B"

}  // namespace fiddler
