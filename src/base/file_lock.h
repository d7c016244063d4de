// So that two processes which change one file do not lose each other's changes: whoever holds the lock reads,
// changes and replaces the file.
#pragma once

#include <filesystem>

namespace fiddler {

// Holds the lock as long as it lives; the system takes it away from a process that dies. It is on a file of
// its own, "PATH.lock", which stays: PATH itself is replaced by renaming. Threads exclude each other too.
class FileLock {
 public:
  // Waits until nobody else holds it. Throws Error naming the lock's file if that cannot be opened.
  explicit FileLock(const std::filesystem::path& path);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int descriptor_;
};

}  // namespace fiddler
