// A packed expert file (packed_header.h) on disk: opened for reading, written where it is missing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "experts/packed_header.h"

namespace fiddler {

// Open for reading, past the page cache where the file system can (O_DIRECT): weights are kept in memory
// once, by who reads them, and what is kept is decided by experts/cache_policy.h. Move-only; const methods
// may be called from several threads.
class PackedFile {
 public:
  // The file at `path` if it holds what `wanted` describes; nothing if there is none or it holds something
  // else: an older version, another model, half of it. Throws Error if it is no packed expert file at all, or
  // cannot be read.
  static std::optional<PackedFile> Find(const std::filesystem::path& path, const PackedHeader& wanted);

  PackedFile(PackedFile&& other) noexcept;
  PackedFile& operator=(PackedFile&& other) noexcept;
  ~PackedFile();

  const std::filesystem::path& path() const { return path_; }
  const PackedHeader& header() const { return header_; }
  int64_t pieces() const;  // of an expert
  uint64_t PieceBytes(int64_t piece) const;

  // Reads piece `piece` of expert `index` (layer by layer) to `out`, which begins on a page. Throws Error
  // where the disk fails.
  void ReadPiece(int64_t index, int64_t piece, std::byte* out) const;

  // Throws Error naming file, expert, expected and got, if the checksum of its pieces is not `checksum`.
  void RequireChecksum(int64_t index, uint64_t checksum) const;

 private:
  PackedFile(std::filesystem::path path, int descriptor, PackedHeader header);

  std::filesystem::path path_;
  int descriptor_ = -1;  // owned
  PackedHeader header_;
};

// Packs expert `index` (layer by layer) into `out`, header.expert.bytes() long; called on pool workers.
using PackExpert = std::function<void(int64_t index, int worker, std::byte* out)>;

// The file at `path`, written first unless Find finds it. `buffers`: one for each expert to be packed at a
// time, aligned to a page, wanted.stride() bytes. The folder must be there.
//
// Written in one pass to .NAME.fiddler-partial beside it, synced and renamed: whoever kills the process
// leaves no `path`, or the old one, and a partial file that the next writer takes over. Two processes that
// want the same file write it once: the second waits (where the file system cannot lock files, each writes
// its own). Throws Error if the disk lacks room (before anything is written, saying how much) or fails; then
// the partial file is gone too. Throws Error if a file that is none of ours has its name. Progress counts
// bytes of the file.
PackedFile FindOrWritePackedFile(const std::filesystem::path& path, const PackedHeader& wanted,
                                 ThreadPool& pool, std::span<std::byte* const> buffers,
                                 const PackExpert& pack, Progress& progress);

}  // namespace fiddler
