#include "base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace fiddler {

FileLock::FileLock(const std::filesystem::path& path) {
  std::filesystem::path lock = path;
  lock += ".lock";
  descriptor_ = open(lock.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  if (descriptor_ < 0)
    throw Error("{}: expected to open a file, got: {}", lock.string(), std::strerror(errno));
  while (flock(descriptor_, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    const int error = errno;
    close(descriptor_);
    throw Error("{}: expected to lock a file, got: {}", lock.string(), std::strerror(error));
  }
}

FileLock::~FileLock() { close(descriptor_); }

}  // namespace fiddler
