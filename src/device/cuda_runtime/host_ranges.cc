#include "device/cuda_runtime/host_ranges.h"

#include <algorithm>
#include <cinttypes>
#include <iterator>

#include "device/cuda_runtime/failure.h"

namespace fiddler::cuda {

std::vector<HostRanges::Piece> HostRanges::Add(const void* data, uint64_t bytes, Owner owner,
                                               const char* call) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  if (data == nullptr || bytes == 0) Fail("%s: no bytes", call);
  Range range = {.begin = address, .end = address + bytes, .owner = owner};
  if (owner == Owner::kHost) {
    range.begin = range.begin / kPageBytes * kPageBytes;
    range.end = (range.end + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
  std::vector<Piece> pieces;
  for (uintptr_t begin = range.begin; begin < range.end;) {
    uintptr_t end = range.end;
    if (owner == Owner::kHost) end = std::min(end, (begin / kPieceBytes + 1) * kPieceBytes);
    pieces.push_back({.begin = begin, .bytes = end - begin});
    begin = end;
  }

  const std::scoped_lock lock(mutex_);
  if (Overlaps(range.begin, range.end)) {
    Fail("%s: %" PRIu64 " bytes at %#" PRIxPTR " overlap pages that are pinned already", call, bytes,
         address);
  }
  for (const Piece& piece : pieces)
    pieces_.emplace(piece.begin, State{.bytes = piece.bytes, .device_offset = {}});
  ranges_.emplace(address, range);
  return pieces;
}

void HostRanges::SetPinned(const Piece& piece, uint64_t device_offset) {
  const std::scoped_lock lock(mutex_);
  pieces_.at(piece.begin).device_offset = device_offset;
}

std::vector<HostRanges::Piece> HostRanges::Find(const void* data, Owner owner, const char* call) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const std::scoped_lock lock(mutex_);
  const auto range = ranges_.find(address);
  if (range == ranges_.end() || range->second.owner != owner) {
    Fail("%s: %#" PRIxPTR " is not what was %s", call, address,
         owner == Owner::kPlugin ? "allocated" : "pinned");
  }
  std::vector<Piece> pieces;
  for (auto piece = pieces_.find(range->second.begin);
       piece != pieces_.end() && piece->first < range->second.end; ++piece) {
    pieces.push_back({.begin = piece->first, .bytes = piece->second.bytes});
  }
  return pieces;
}

void HostRanges::Remove(const void* data) {
  const std::scoped_lock lock(mutex_);
  const auto range = ranges_.find(reinterpret_cast<uintptr_t>(data));
  pieces_.erase(pieces_.lower_bound(range->second.begin), pieces_.lower_bound(range->second.end));
  ranges_.erase(range);
}

std::vector<const void*> HostRanges::All(Owner owner) const {
  const std::scoped_lock lock(mutex_);
  std::vector<const void*> all;
  for (const auto& [address, range] : ranges_) {
    if (range.owner == owner) all.push_back(reinterpret_cast<const void*>(address));
  }
  return all;
}

uint64_t HostRanges::BytesToBorder(const void* data, uint64_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto next = pieces_.upper_bound(address);
  if (next != pieces_.begin()) {
    const auto& [begin, piece] = *std::prev(next);
    if (address - begin < piece.bytes) return std::min(bytes, begin + piece.bytes - address);
  }
  return next == pieces_.end() ? bytes : std::min<uint64_t>(bytes, next->first - address);
}

std::optional<uint64_t> HostRanges::DeviceAddress(const void* data, uint64_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const std::scoped_lock lock(mutex_);
  const auto next = pieces_.upper_bound(address);
  if (next == pieces_.begin()) return std::nullopt;
  const auto& [begin, piece] = *std::prev(next);
  const uint64_t offset = address - begin;
  if (!piece.device_offset || offset >= piece.bytes || bytes > piece.bytes - offset) return std::nullopt;
  return address + *piece.device_offset;
}

bool HostRanges::Overlaps(uintptr_t begin, uintptr_t end) const {
  const auto next = pieces_.lower_bound(begin);
  if (next != pieces_.end() && next->first < end) return true;
  return next != pieces_.begin() && begin - std::prev(next)->first < std::prev(next)->second.bytes;
}

}  // namespace fiddler::cuda
