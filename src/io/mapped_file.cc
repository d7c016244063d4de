#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

// Closes on every way out.
struct FileDescriptor {
  int number;
  ~FileDescriptor() {
    if (number >= 0) close(number);
  }
};

size_t PageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

void* Address(uintptr_t address) { return reinterpret_cast<void*>(address); }

// The pages that hold `part`, as addresses.
struct PageRange {
  uintptr_t begin;
  size_t bytes;
};

PageRange PagesAround(std::span<const std::byte> part) {
  const size_t page = PageBytes();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  return {begin, reinterpret_cast<uintptr_t>(part.data() + part.size()) - begin};
}

}  // namespace

MappedFile MappedFile::Open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe would wait for a writer before we can see that it is no file.
  const FileDescriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) throw Error("{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat status {};
  if (fstat(file.number, &status) != 0) {
    throw Error("{}: cannot read its size: {}", path.string(), std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error("{}: expected a file, got {}", path.string(),
                S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe");
  }
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return {path, {}};
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (mapping == MAP_FAILED) {
    throw Error("{}: cannot map {} bytes: {}", path.string(), size, std::strerror(errno));
  }
  return {path, {static_cast<const std::byte*>(mapping), size}};
}

MappedFile::MappedFile(std::filesystem::path path, std::span<const std::byte> bytes)
    : path_(std::move(path)), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

bool MappedFile::Contains(std::span<const std::byte> part) const {
  const auto begin = reinterpret_cast<uintptr_t>(bytes_.data());
  const auto part_begin = reinterpret_cast<uintptr_t>(part.data());
  return part_begin >= begin && part_begin + part.size() <= begin + bytes_.size();
}

void MappedFile::AdviseDontNeed(std::span<const std::byte> part) const {
  if (part.empty()) return;
  CHECK(Contains(part), "{}", path_.string());
  // A page shared with a neighbour may go too: it is read again from the page cache when it is touched.
  const PageRange pages = PagesAround(part);
  madvise(Address(pages.begin), pages.bytes, MADV_DONTNEED);
}

void MappedFile::Prefetch(std::span<const std::byte> part) const {
  if (part.empty()) return;
  CHECK(Contains(part), "{}", path_.string());
  const PageRange pages = PagesAround(part);
  madvise(Address(pages.begin), pages.bytes, MADV_WILLNEED);  // all of it at once, where faults read pieces
  if (madvise(Address(pages.begin), pages.bytes, MADV_POPULATE_READ) == 0) return;
  if (errno == EINVAL) return;  // Linux before 5.14: the hint above must do
  throw Error(
      "{}: cannot read bytes {} to {}: {}", path_.string(), part.data() - bytes_.data(),
      part.data() - bytes_.data() + static_cast<ptrdiff_t>(part.size()),
      errno == EFAULT ? "the disk failed, or the file shrank after it was opened" : std::strerror(errno));
}

}  // namespace fiddler
