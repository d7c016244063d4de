#include "device/emulated_memory.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/units.h"

namespace fiddler::emulated {
namespace {

// In the hole of the address space that no 64-bit processor of today translates.
constexpr FiddlerAddress kFirstAddress = 0x1000'0000'0000'0000;

// Behind every allocation; more than a kernel that runs over the end would jump.
constexpr uint64_t kGapBytes = 1 << 20;

// From here on memory comes in huge pages, which for less would be mostly empty.
constexpr uint64_t kLargeBytes = 1 << 20;

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

EmulatedMemory::EmulatedMemory(uint64_t cap_bytes, Workers workers)
    : cap_bytes_(cap_bytes), workers_(workers), next_(kFirstAddress) {}

FiddlerMemory EmulatedMemory::usage() const {
  const std::scoped_lock lock(mutex_);
  return {.installed_bytes = cap_bytes_,
          .cap_bytes = cap_bytes_,
          .used_bytes = used_bytes_,
          .peak_bytes = peak_bytes_};
}

FiddlerAddress EmulatedMemory::Allocate(uint64_t bytes) {
  Allocation allocation;
  allocation.bytes = bytes;
  {
    const std::scoped_lock lock(mutex_);
    const uint64_t free = cap_bytes_ - used_bytes_;
    if (bytes > free || RoundUp(bytes, kAlignment) > free) {
      throw Error("allocate: expected {} of free device memory, got {} of {}", FormatBytes(bytes),
                  FormatBytes(free), FormatBytes(cap_bytes_));
    }
  }
  if (bytes >= kLargeBytes) {
    allocation.large = HugePageBuffer(bytes, "allocate: memory of the emulated device");
  } else {
    allocation.small.reset(
        static_cast<std::byte*>(::operator new (std::max<uint64_t>(bytes, 1), std::align_val_t{kAlignment})));
  }
  workers_.Fill(allocation.data(), kPoison, bytes);

  const std::scoped_lock lock(mutex_);
  const FiddlerAddress address = next_;
  next_ += RoundUp(bytes, kGapBytes) + kGapBytes;
  used_bytes_ += RoundUp(bytes, kAlignment);
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  allocations_.emplace(address, std::move(allocation));
  return address;
}

void EmulatedMemory::Release(FiddlerAddress address) {
  const std::scoped_lock lock(mutex_);
  const auto found = allocations_.find(address);
  if (found == allocations_.end()) throw Error("release: {:#x} is not what allocate gave", address);
  Allocation& allocation = found->second;
  if (allocation.released) throw Error("release: {:#x} was released before", address);
  used_bytes_ -= RoundUp(allocation.bytes, kAlignment);
  allocation.released = true;
  allocation.small.reset();
  allocation.large = HugePageBuffer();
}

std::byte* EmulatedMemory::Translate(FiddlerAddress address, uint64_t bytes, uint64_t alignment,
                                     std::string_view what) const {
  if (bytes == 0) return nullptr;
  if (address % alignment != 0) {
    throw Error("{}: expected an address that is a multiple of {}, got {:#x}", what, alignment, address);
  }
  const std::scoped_lock lock(mutex_);
  const auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) throw Error("{}: {:#x} is no address of this device", what, address);
  const auto& [first, allocation] = *std::prev(after);
  const uint64_t offset = address - first;
  if (offset > allocation.bytes || bytes > allocation.bytes - offset) {
    throw Error("{}: {} bytes at {:#x} do not lie in the allocation of {} bytes at {:#x} before it", what,
                bytes, address, allocation.bytes, first);
  }
  if (allocation.released) {
    throw Error("{}: {} bytes at {:#x} were released, with the {} bytes at {:#x}", what, bytes, address,
                allocation.bytes, first);
  }
  return allocation.data() + offset;
}

}  // namespace fiddler::emulated
