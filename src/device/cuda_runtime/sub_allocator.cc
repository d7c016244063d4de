#include "device/cuda_runtime/sub_allocator.h"

#include <algorithm>
#include <iterator>

#include "device/cuda_runtime/failure.h"

namespace fiddler::cuda {

SubAllocator::SubAllocator(uint64_t bytes) : cap_bytes_(bytes) {
  const uint64_t whole = bytes / kAlignment * kAlignment;
  if (whole > 0) free_.emplace(0, whole);
}

uint64_t SubAllocator::Allocate(uint64_t bytes) {
  const uint64_t left = cap_bytes_ - used_bytes_;
  // Rounded only where that cannot overflow.
  const uint64_t size =
      bytes > left ? bytes : (std::max<uint64_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (size > left) {
    Fail("allocate: expected %s of free device memory, got %s of %s", SizeText(bytes).c_str(),
         SizeText(left).c_str(), SizeText(cap_bytes_).c_str());
  }
  const auto found =
      std::find_if(free_.begin(), free_.end(), [&](const auto& block) { return block.second >= size; });
  if (found == free_.end()) {
    Fail("allocate: expected %s of free device memory in one piece, got %s, of %s in all",
         SizeText(bytes).c_str(), SizeText(LargestFree()).c_str(), SizeText(left).c_str());
  }
  const auto [offset, block_bytes] = *found;
  free_.erase(found);
  if (block_bytes > size) free_.emplace(offset + size, block_bytes - size);
  taken_.emplace(offset, size);
  used_bytes_ += size;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  return offset;
}

void SubAllocator::Release(uint64_t offset) {
  const auto taken = taken_.find(offset);
  if (taken == taken_.end()) Fail("release: nothing is allocated there");
  uint64_t bytes = taken->second;
  used_bytes_ -= bytes;
  taken_.erase(taken);

  // Joined with the free blocks it touches.
  auto next = free_.lower_bound(offset);
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      bytes += previous->second;
      free_.erase(previous);
    }
  }
  if (next != free_.end() && offset + bytes == next->first) {
    bytes += next->second;
    free_.erase(next);
  }
  free_.emplace(offset, bytes);
}

bool SubAllocator::Contains(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0) return true;
  const auto after = taken_.upper_bound(offset);
  if (after == taken_.begin()) return false;
  const auto& [begin, size] = *std::prev(after);
  return offset - begin < size && bytes <= size - (offset - begin);
}

uint64_t SubAllocator::LargestFree() const {
  uint64_t largest = 0;
  for (const auto& [offset, bytes] : free_) largest = std::max(largest, bytes);
  return largest;
}

}  // namespace fiddler::cuda
