#include "base/file.h"

#include <fcntl.h>
#include <unistd.h>

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

// A file that did not exist, removed again unless it is renamed.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& target) : target_(target) {
    // Beside the target, because a rename cannot cross file systems. The loop is for what a process of the
    // same number left behind when it was killed, and for other threads.
    constexpr int kMaxTries = 1000;
    for (int i = 0; i < kMaxTries && descriptor_ < 0; ++i) {
      path_ = target;
      path_ += fmt::format(".{}-{}.tmp", getpid(), i);
      descriptor_ = open(path_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) break;
    }
    if (descriptor_ < 0) Fail();
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!renamed_) unlink(path_.c_str());
  }

  void Write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) Fail();
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  void FlushAndRename() {
    if (fsync(descriptor_) != 0) Fail();
    const int closed = close(descriptor_);
    descriptor_ = -1;
    if (closed != 0) Fail();
    if (rename(path_.c_str(), target_.c_str()) != 0) Fail();
    renamed_ = true;
  }

 private:
  [[noreturn]] void Fail() const {
    throw Error("{}: expected to write a file, got: {}", target_.string(), std::strerror(errno));
  }

  const std::filesystem::path target_;
  std::filesystem::path path_;
  int descriptor_ = -1;
  bool renamed_ = false;
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

void WriteFileAtomically(const std::filesystem::path& path, std::string_view bytes) {
  std::error_code error;
  std::filesystem::path target = path;
  if (std::filesystem::exists(path, error)) {
    // Renaming over a device or a pipe would replace it.
    if (!std::filesystem::is_regular_file(path, error)) {
      throw Error("{}: expected a regular file or none, got something else", path.string());
    }
    target = std::filesystem::canonical(path, error);
    if (error) throw Error("{}: expected a regular file or none, got: {}", path.string(), error.message());
  }
  NewFile file(target);
  file.Write(bytes);
  file.FlushAndRename();
}

}  // namespace fiddler
