#include "device/pinned_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "device/workers.h"

namespace fiddler::emulated {

std::byte* PinnedMemory::Allocate(uint64_t bytes) {
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  Range range;
  range.bytes = size;
  range.owned.reset(static_cast<std::byte*>(::operator new(size, kAlignment)));
  std::byte* const data = range.owned.get();
  std::memset(data, kPoison, size);
  const std::scoped_lock lock(mutex_);
  ranges_.emplace(reinterpret_cast<uintptr_t>(data), std::move(range));
  return data;
}

void PinnedMemory::Release(const void* data) { Remove(data, true, "release_pinned"); }

void PinnedMemory::Pin(const void* data, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  if (bytes == 0 || data == nullptr) throw Error("pin: no bytes");
  const std::scoped_lock lock(mutex_);
  if (Overlaps(begin, bytes))
    throw Error("pin: {} bytes at {:#x} overlap what is pinned already", bytes, begin);
  ranges_.emplace(begin, Range{.bytes = bytes, .owned = nullptr});
}

void PinnedMemory::Unpin(const void* data) { Remove(data, false, "unpin"); }

void PinnedMemory::RequireFlag(const uint32_t* flag, std::string_view what) const {
  const auto begin = reinterpret_cast<uintptr_t>(flag);
  if (begin % alignof(uint32_t) != 0) throw Error("{}: a flag at {:#x} is not aligned", what, begin);
  const std::scoped_lock lock(mutex_);
  const auto after = ranges_.upper_bound(begin);
  if (after != ranges_.begin()) {
    const auto& [first, range] = *std::prev(after);
    if (begin - first + sizeof(uint32_t) <= range.bytes) return;
  }
  throw Error("{}: a flag at {:#x} does not lie in pinned memory", what, begin);
}

void PinnedMemory::Remove(const void* data, bool owned, std::string_view call) {
  const std::scoped_lock lock(mutex_);
  const auto found = ranges_.find(reinterpret_cast<uintptr_t>(data));
  if (found == ranges_.end() || (found->second.owned != nullptr) != owned) {
    throw Error("{}: {:#x} is not what was {}", call, reinterpret_cast<uintptr_t>(data),
                owned ? "allocated" : "pinned");
  }
  ranges_.erase(found);
}

bool PinnedMemory::Overlaps(uintptr_t begin, uint64_t bytes) const {
  const auto next = ranges_.lower_bound(begin);
  if (next != ranges_.end() && next->first - begin < bytes) return true;
  return next != ranges_.begin() && begin - std::prev(next)->first < std::prev(next)->second.bytes;
}

}  // namespace fiddler::emulated
