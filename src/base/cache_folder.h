// Where files are kept that may be deleted at any time.
#pragma once

#include <filesystem>
#include <string_view>

namespace fiddler {

// $XDG_CACHE_HOME/fiddler, or ~/.cache/fiddler; it may not be there yet. Throws Error if neither
// XDG_CACHE_HOME nor HOME is an absolute path; the error says that `option` names another place.
std::filesystem::path CacheFolder(std::string_view option);

}  // namespace fiddler
