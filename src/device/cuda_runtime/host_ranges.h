// Which host memory the GPU was told of: what the plugin allocated and what the host pinned, the latter in
// pieces, because the driver holds its locks for as long as it registers one. No CUDA in here: whoever asks
// registers.
//
// Any number of threads: memory is pinned in the background. The mutex is held for the table alone, never
// while something is registered.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace fiddler::cuda {

class HostRanges {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  // Registered at once at most; pieces begin at multiples of it.
  static constexpr uint64_t kPieceBytes = uint64_t{256} << 20;

  enum class Owner { kPlugin, kHost };

  struct Piece {
    uintptr_t begin = 0;
    uint64_t bytes = 0;
  };

  // The pieces to register: the pages that these bytes touch, or, of the plugin's own, exactly these bytes.
  // None of them counts as pinned before SetPinned. Throws std::runtime_error if there are no bytes, or a
  // page of them is here already; `call` opens the message.
  std::vector<Piece> Add(const void* data, uint64_t bytes, Owner owner, const char* call);
  // From now on the GPU reaches the piece, at its host address plus device_offset (modulo 2^64).
  void SetPinned(const Piece& piece, uint64_t device_offset);
  // The pieces of what is at `data`; throws std::runtime_error if it was not added by this owner.
  std::vector<Piece> Find(const void* data, Owner owner, const char* call) const;
  void Remove(const void* data);  // that was found
  // What was added by this owner and is still here.
  std::vector<const void*> All(Owner owner) const;

  // Calls copy(offset, bytes) for the parts of these bytes between borders of pieces: a copy that crosses one
  // would touch two registrations, which CUDA refuses. No memory is added meanwhile, so a border that comes
  // into being later finds the copy queued.
  template <typename Copy>
  void CopyInParts(const void* data, uint64_t bytes, const Copy& copy) const {
    const std::scoped_lock lock(mutex_);
    const auto* const begin = static_cast<const char*>(data);
    for (uint64_t offset = 0; offset < bytes;) {
      const uint64_t part = BytesToBorder(begin + offset, bytes - offset);
      copy(offset, part);
      offset += part;
    }
  }

  // Where the GPU reaches these bytes; nothing: they are not pinned, or not all in one piece.
  std::optional<uint64_t> DeviceAddress(const void* data, uint64_t bytes) const;

 private:
  struct State {
    uint64_t bytes = 0;
    std::optional<uint64_t> device_offset;  // nothing: not pinned yet
  };
  struct Range {
    uintptr_t begin = 0;  // of its first piece
    uintptr_t end = 0;    // of its last
    Owner owner = Owner::kHost;
  };

  // Both with the mutex held.
  bool Overlaps(uintptr_t begin, uintptr_t end) const;
  uint64_t BytesToBorder(const void* data, uint64_t bytes) const;

  mutable std::mutex mutex_;           // guards what follows
  std::map<uintptr_t, State> pieces_;  // by first address
  std::map<uintptr_t, Range> ranges_;  // by the address they were added with
};

}  // namespace fiddler::cuda
