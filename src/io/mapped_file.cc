#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {

MappedFile MappedFile::Open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe would wait for a writer before we can see that it is no file.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw Error("{}: cannot open: {}", path.string(), std::strerror(errno));
  MappedFile file(path, descriptor);  // closes it on every way out
  struct stat status {};
  if (fstat(descriptor, &status) != 0) {
    throw Error("{}: cannot read its size: {}", path.string(), std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error("{}: expected a file, got {}", path.string(),
                S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe");
  }
  file.modified_ns_ = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return file;
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (mapping == MAP_FAILED) {
    throw Error("{}: cannot map {} bytes: {}", path.string(), size, std::strerror(errno));
  }
  file.bytes_ = {static_cast<const std::byte*>(mapping), size};
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      modified_ns_(other.modified_ns_),
      bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(modified_ns_, other.modified_ns_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) close(descriptor_);
}

bool MappedFile::Contains(std::span<const std::byte> part) const {
  const auto begin = reinterpret_cast<uintptr_t>(bytes_.data());
  const auto part_begin = reinterpret_cast<uintptr_t>(part.data());
  return part_begin >= begin && part_begin + part.size() <= begin + bytes_.size();
}

off_t MappedFile::OffsetOf(std::span<const std::byte> part) const {
  CHECK(Contains(part), "{}", path_.string());
  return part.data() - bytes_.data();
}

void MappedFile::Read(std::span<const std::byte> part, std::byte* out) const {
  if (part.empty()) return;
  const off_t begin = OffsetOf(part);
  size_t done = 0;
  while (done < part.size()) {
    const ssize_t count =
        pread(descriptor_, out + done, part.size() - done, begin + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      throw Error("{}: cannot read bytes {} to {}: {}", path_.string(), begin,
                  begin + static_cast<off_t>(part.size()),
                  count == 0 ? "the file shrank after it was opened" : std::strerror(errno));
    }
    done += static_cast<size_t>(count);
  }
}

void MappedFile::Prefetch(std::span<const std::byte> part) const {
  if (part.empty()) return;
  posix_fadvise(descriptor_, OffsetOf(part), static_cast<off_t>(part.size()), POSIX_FADV_WILLNEED);
}

void MappedFile::DropCache(std::span<const std::byte> part) const {
  if (part.empty()) return;
  posix_fadvise(descriptor_, OffsetOf(part), static_cast<off_t>(part.size()), POSIX_FADV_DONTNEED);
}

}  // namespace fiddler
