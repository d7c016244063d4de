// A file seen as memory: read-only, mapped, pages are read when they are first touched (or by Prefetch).
//
// The file must not shrink while it is mapped: touching a page that is gone raises SIGBUS, as with every
// mmap. Move-only; const methods may be called from several threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

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
  std::span<const std::byte> bytes() const { return bytes_; }
  bool Contains(std::span<const std::byte> part) const;  // whether these bytes are inside the mapping

  // A hint: unmaps whole pages of this part, which must be inside the mapping; the page cache keeps them.
  // Never fails and never changes what is read.
  void AdviseDontNeed(std::span<const std::byte> part) const;

  // Reads this part, which must be inside the mapping, and returns when it is in memory. Throws Error where
  // the disk fails, instead of SIGBUS.
  void Prefetch(std::span<const std::byte> part) const;

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes);

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace fiddler
