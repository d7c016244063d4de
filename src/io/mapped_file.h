// A file seen as memory: read-only, mapped. What is small (a header) is looked at there; what is big is
// copied out by Read, which costs no page tables and reports a failing disk as an error.
//
// The file must not shrink while it is mapped: touching a page that is gone raises SIGBUS, as with every
// mmap; Read does not touch the mapping. Move-only; const methods may be called from several threads.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

namespace fiddler {

class MappedFile {
 public:
  // Throws Error if the path is not a regular file or cannot be mapped. An empty file maps to no bytes.
  static MappedFile Open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  size_t size() const { return bytes_.size(); }
  int64_t modified_ns() const { return modified_ns_; }  // since 1970, when it was opened
  std::span<const std::byte> bytes() const { return bytes_; }
  bool Contains(std::span<const std::byte> part) const;  // whether these bytes are inside the mapping

  // Copies this part, which must be inside the mapping, from the file. Throws Error where the disk fails.
  void Read(std::span<const std::byte> part, std::byte* out) const;

  // Hints, which never fail and never change what is read; the part must be inside the mapping.
  void Prefetch(std::span<const std::byte> part) const;   // starts to read it into the page cache
  void DropCache(std::span<const std::byte> part) const;  // lets its whole pages go from the page cache

 private:
  MappedFile(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  off_t OffsetOf(std::span<const std::byte> part) const;  // CHECKs that it is inside

  std::filesystem::path path_;
  int descriptor_ = -1;  // owned
  int64_t modified_ns_ = 0;
  std::span<const std::byte> bytes_;
};

}  // namespace fiddler
