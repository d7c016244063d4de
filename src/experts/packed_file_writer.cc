// Writing a packed expert file: FindOrWritePackedFile.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/units.h"
#include "experts/packed_file.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

// .NAME.fiddler-partial beside the target, locked: one process at a time writes it. What a killed one left
// (the kernel gave its lock back) begins as a packed file does and is overwritten; anything else is
// somebody's, and refused. Where files cannot be locked nothing is shared: a file of a name of its own.
// Removed unless it is renamed.
class PartialFile {
 public:
  explicit PartialFile(const fs::path& target) : target_(target) {
    const fs::path path = Folder() / fmt::format(".{}.fiddler-partial", target.filename().string());
    for (bool is_current = false; !is_current;) {
      Close();
      path_ = path;
      descriptor_ = open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0666);
      if (descriptor_ < 0) Fail("create");
      if (!Lock()) {
        OpenUnshared();
        return;
      }
      // Whoever held the lock may have renamed the file meanwhile: then it is no longer the one at path_.
      struct stat mine = {};
      struct stat there = {};
      is_current = fstat(descriptor_, &mine) == 0 && stat(path_.c_str(), &there) == 0 &&
                   mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
    }
    if (IsOurs()) return;
    Close();
    throw Error("{}: expected packed experts half-written or no file, got something else", path_.string());
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (!renamed_) unlink(path_.c_str());
    Close();
  }

  // Makes the file `bytes` long, all of them on the disk's account.
  void Reserve(uint64_t bytes) {
    if (ftruncate(descriptor_, 0) != 0) Fail("empty");
    // On the disk before the file is large: what is left of it, whenever, is known as ours.
    if (pwrite(descriptor_, PackedHeader::kMagic.data(), PackedHeader::kMagic.size(), 0) !=
            static_cast<ssize_t>(PackedHeader::kMagic.size()) ||
        fsync(descriptor_) != 0)
      Fail("write");
    struct statvfs disk = {};
    if (fstatvfs(descriptor_, &disk) == 0) {
      const uint64_t free = uint64_t{disk.f_bavail} * disk.f_frsize;
      if (free < bytes) {
        throw Error(
            "{}: expected {} of free disk space for the packed experts, got {}; --packed-file puts them "
            "elsewhere",
            target_.string(), FormatBytes(bytes), FormatBytes(free));
      }
    }
    const auto length = static_cast<off_t>(bytes);
    if (fallocate(descriptor_, 0, 0, length) != 0 &&
        (errno != EOPNOTSUPP || ftruncate(descriptor_, length) != 0))
      Fail("reserve");
    fcntl(descriptor_, F_SETFL, O_RDWR | O_DIRECT);  // where it is refused, through the page cache
  }

  // `bytes` and `offset` are whole pages.
  void Write(uint64_t offset, std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) Fail("write");
      offset += static_cast<uint64_t>(written);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void SyncAndRename() {
    if (fsync(descriptor_) != 0) Fail("write");
    if (rename(path_.c_str(), target_.c_str()) != 0) Fail("rename");
    renamed_ = true;
    if (const int directory = open(Folder().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); directory >= 0) {
      fsync(directory);  // the name; if it is lost, the file is written again
      close(directory);
    }
  }

 private:
  [[noreturn]] void Fail(const char* what) const {
    throw Error("{}: packed experts: cannot {} the file: {}", target_.string(), what, std::strerror(errno));
  }

  fs::path Folder() const { return target_.has_parent_path() ? target_.parent_path() : fs::path("."); }

  // False if this file system cannot.
  bool Lock() const {
    while (flock(descriptor_, LOCK_EX) != 0) {
      if (errno != EINTR) return false;
    }
    return true;
  }

  bool IsOurs() const {
    struct stat status = {};
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    if (status.st_size == 0) return true;
    std::array<char, PackedHeader::kMagic.size()> start = {};
    return pread(descriptor_, start.data(), start.size(), 0) == static_cast<ssize_t>(start.size()) &&
           std::string_view(start.data(), start.size()) == PackedHeader::kMagic;
  }

  // Instead of the file that is open, whose name everybody knows: nobody writes it here.
  void OpenUnshared() {
    struct stat status = {};
    if (fstat(descriptor_, &status) == 0 && status.st_size == 0) unlink(path_.c_str());
    Close();
    const fs::path shared = path_;
    for (int i = 0; descriptor_ < 0; ++i) {
      path_ = fmt::format("{}-{}-{}", shared.string(), getpid(), i);
      descriptor_ = open(path_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) Fail("create");
    }
  }

  void Close() {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = -1;
  }

  const fs::path target_;
  fs::path path_;  // of the partial file
  int descriptor_ = -1;
  bool renamed_ = false;
};

uint64_t ChecksumOfExpert(std::span<const std::byte> expert) {
  uint64_t sum = 0;
  while (!expert.empty()) {
    const std::span<const std::byte> piece =
        expert.first(std::min<size_t>(expert.size(), PackedHeader::kPieceBytes));
    sum = ChecksumStep(sum, Checksum64(piece));
    expert = expert.subspan(piece.size());
  }
  return sum;
}

void WriteExperts(const PartialFile& file, PackedHeader& header, ThreadPool& pool,
                  std::span<std::byte* const> buffers, const PackExpert& pack, Progress& progress) {
  const size_t expert_bytes = header.expert.bytes();
  std::atomic<int64_t> next = 0;
  std::atomic<bool> failed = false;
  pool.Run([&](int worker) {
    if (static_cast<size_t>(worker) >= buffers.size()) return;
    const std::span<std::byte> buffer(buffers[static_cast<size_t>(worker)], header.stride());
    try {
      for (int64_t i; (i = next.fetch_add(1)) < header.count() && !failed;) {
        pack(i, worker, buffer.data());
        std::ranges::fill(buffer.subspan(expert_bytes), std::byte{0});
        header.checksums[static_cast<size_t>(i)] = ChecksumOfExpert(buffer);
        file.Write(header.OffsetOf(i), buffer);
        progress.Advance(buffer.size());
      }
    } catch (...) {
      failed = true;
      throw;
    }
  });
}

// Once the experts are there: until then no header says that they are.
void WriteHeader(const PartialFile& file, const PackedHeader& header) {
  const std::string bytes = SerializePackedHeader(header);
  const HugePageBuffer page(bytes.size(), "packed experts: header");  // O_DIRECT wants it aligned
  std::memcpy(page.bytes().data(), bytes.data(), bytes.size());
  file.Write(0, page.bytes());
}

}  // namespace

PackedFile FindOrWritePackedFile(const fs::path& path, const PackedHeader& wanted, ThreadPool& pool,
                                 std::span<std::byte* const> buffers, const PackExpert& pack,
                                 Progress& progress) {
  CHECK(!buffers.empty());
  if (std::optional<PackedFile> found = PackedFile::Find(path, wanted)) return *std::move(found);
  // A link is followed: the file it names is replaced, not the link.
  std::error_code error;
  const fs::path target = fs::exists(path, error) ? fs::canonical(path, error) : path;
  PartialFile file(error ? path : target);
  if (std::optional<PackedFile> found = PackedFile::Find(path, wanted)) return *std::move(found);
  PackedHeader header = wanted;
  header.checksums.assign(static_cast<size_t>(header.count()), 0);
  file.Reserve(header.file_bytes());
  progress.Start("packing experts", header.file_bytes() - header.data_begin());
  WriteExperts(file, header, pool, buffers, pack, progress);
  WriteHeader(file, header);
  file.SyncAndRename();
  progress.Finish();
  std::optional<PackedFile> written = PackedFile::Find(path, wanted);
  if (!written)
    throw Error("{}: expected the packed experts just written, got something else", path.string());
  return *std::move(written);
}

}  // namespace fiddler
