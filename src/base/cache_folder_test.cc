#include "base/cache_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error_testing.h"

namespace fiddler {
namespace {

TEST(CacheFolderTest, IsTheUsers) {
  const auto folder = [](const char* cache, const char* home) {
    setenv("XDG_CACHE_HOME", cache, 1);
    setenv("HOME", home, 1);
    return CacheFolder("--there").string();
  };
  EXPECT_EQ(folder("/c", "/h"), "/c/fiddler");
  EXPECT_EQ(folder("relative", "/h"), "/h/.cache/fiddler");
  EXPECT_EQ(folder("", "/h"), "/h/.cache/fiddler");
  const std::string neither =
      "XDG_CACHE_HOME, HOME: expected the absolute path of a folder in one of them, got neither; --there "
      "names "
      "another place";
  EXPECT_EQ(ErrorOf([&] { folder("", ""); }), neither);
  EXPECT_EQ(ErrorOf([&] { folder("relative", "relative"); }), neither);
}

}  // namespace
}  // namespace fiddler
