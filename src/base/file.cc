#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace fiddler {
namespace {

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

std::string ReadFile(const std::filesystem::path& path, size_t max_bytes) {
  const std::unique_ptr<std::FILE, FileCloser> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw Error("{}: expected a file, got: {}", path.string(), std::strerror(errno));
  std::string text;
  constexpr size_t kFirstPiece = size_t{1} << 16;
  for (size_t piece = kFirstPiece;; piece = text.size()) {  // doubles: a pipe does not say how much will come
    const size_t before = text.size();
    text.resize(std::min(before + piece, max_bytes + 1));
    const size_t got = std::fread(text.data() + before, 1, text.size() - before, file.get());
    const bool at_end = got < text.size() - before;
    text.resize(before + got);
    if (std::ferror(file.get()) != 0)
      throw Error("{}: expected a file, got: {}", path.string(), std::strerror(errno));
    if (text.size() > max_bytes)
      throw Error("{}: expected at most {} bytes, got more", path.string(), max_bytes);
    if (at_end) return text;
  }
}

}  // namespace fiddler
