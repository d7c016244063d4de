#include "experts/packed_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

// Reads all of [offset, offset + out.size()).
void ReadFully(const fs::path& path, int descriptor, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = pread(descriptor, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error("{}: cannot read at byte {}: {}", path.string(), offset, std::strerror(errno));
    if (got == 0) throw Error("{}: expected {} bytes at {}, got the end", path.string(), out.size(), offset);
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

// The header of an open file; nothing if it is damaged or of another version.
std::optional<PackedHeader> ReadHeader(const fs::path& path, int descriptor, uint64_t file_bytes) {
  std::vector<std::byte> start(std::min(file_bytes, PackedHeader::kFixedBytes));
  ReadFully(path, descriptor, 0, start);
  const bool ours = start.size() == PackedHeader::kFixedBytes &&
                    std::memcmp(start.data(), PackedHeader::kMagic.data(), PackedHeader::kMagic.size()) == 0;
  if (!ours) {  // somebody else's: never to be overwritten
    throw Error("{}: expected a packed expert file or none, got something else", path.string());
  }
  try {
    start.resize(std::min(file_bytes, PackedHeaderBytes(start, path.string())));
    ReadFully(path, descriptor, 0, start);
    return ParsePackedHeader(start, file_bytes, path.string());
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<PackedFile> PackedFile::Find(const fs::path& path, const PackedHeader& wanted) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    if (errno == ENOENT) return std::nullopt;
    throw Error("{}: expected a packed expert file or none, got: {}", path.string(), std::strerror(errno));
  }
  PackedFile file(path, descriptor, {});
  struct stat status = {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    throw Error("{}: expected a packed expert file or none, got no regular file", path.string());
  }
  std::optional<PackedHeader> header = ReadHeader(path, descriptor, static_cast<uint64_t>(status.st_size));
  if (!header || !header->Describes(wanted)) return std::nullopt;
  file.header_ = *std::move(header);
  // Refused by file systems that cannot; then reads go through the page cache, which is only slower.
  fcntl(descriptor, F_SETFL, O_RDONLY | O_DIRECT);
  return file;
}

PackedFile::PackedFile(fs::path path, int descriptor, PackedHeader header)
    : path_(std::move(path)), descriptor_(descriptor), header_(std::move(header)) {}

PackedFile::PackedFile(PackedFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      header_(std::move(other.header_)) {}

PackedFile& PackedFile::operator=(PackedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(header_, other.header_);
  return *this;
}

PackedFile::~PackedFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

int64_t PackedFile::pieces() const {
  return static_cast<int64_t>((header_.stride() + PackedHeader::kPieceBytes - 1) / PackedHeader::kPieceBytes);
}

uint64_t PackedFile::PieceBytes(int64_t piece) const {
  CHECK(piece >= 0 && piece < pieces(), "piece {} of {}", piece, pieces());
  return std::min(PackedHeader::kPieceBytes,
                  header_.stride() - static_cast<uint64_t>(piece) * PackedHeader::kPieceBytes);
}

void PackedFile::ReadPiece(int64_t index, int64_t piece, std::byte* out) const {
  CHECK(index >= 0 && index < header_.count(), "expert {} of {}", index, header_.count());
  const uint64_t offset = static_cast<uint64_t>(piece) * PackedHeader::kPieceBytes;
  ReadFully(path_, descriptor_, header_.OffsetOf(index) + offset, {out, PieceBytes(piece)});
}

void PackedFile::RequireChecksum(int64_t index, uint64_t checksum) const {
  const uint64_t expected = header_.checksums[static_cast<size_t>(index)];
  if (checksum == expected) return;
  throw Error(
      "{}: layer {} of those with experts, expert {}: checksum: expected {:016x}, got {:016x}; "
      "delete the file to have it written again",
      path_.string(), index / header_.num_experts, index % header_.num_experts, expected, checksum);
}

}  // namespace fiddler
