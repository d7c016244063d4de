// How much memory is left, and big buffers on huge pages (2 MiB), which spare the TLB when weights are
// streamed.
//
// Memory from here is not touched by the allocator: the first thread to write a page decides its NUMA node
// (if it is not interleaved), and until then a page costs nothing. Bytes read as zero before they are
// written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace fiddler {

constexpr size_t kHugePageBytes = size_t{2} << 20;

// Bytes this process can still use without swapping: MemAvailable of /proc/meminfo, or what the limits of its
// control groups (v2) leave if that is less; page cache counts as free. UINT64_MAX if the system does not
// say. `root` is where proc/ and sys/ are looked up (tests have their own).
uint64_t AvailableMemoryBytes(const std::filesystem::path& root = "/");

// What of that may be asked for: a little stays free for what nobody announces.
uint64_t UsableMemoryBytes();

// Memory that this process has now, mapped files apart: they are page cache. 0 if the system does not say.
uint64_t ResidentBytes();

// Throws Error if `bytes` more do not fit; `what` says who needs them. Better than to be killed half-way.
void RequireMemory(uint64_t bytes, std::string_view what);

// Owns one run of huge pages. Move-only.
class HugePageBuffer {
 public:
  HugePageBuffer() = default;  // no bytes
  // Throws Error if the memory is not there. `what` as in RequireMemory.
  HugePageBuffer(size_t bytes, std::string_view what);
  HugePageBuffer(HugePageBuffer&& other) noexcept;
  HugePageBuffer& operator=(HugePageBuffer&& other) noexcept;
  ~HugePageBuffer();

  std::span<std::byte> bytes() const { return bytes_; }  // begins on a huge page

  // Spreads pages not yet written evenly over the machine's NUMA nodes, whoever writes them first.
  void Interleave() const;

 private:
  std::span<std::byte> bytes_;
};

// Hands out parts of large HugePageBuffers: one system call per 64 MiB instead of one per tensor. All memory
// goes back when the arena dies. Not thread-safe. Move-only.
class HugePageArena {
 public:
  // Begins on a page (4 KiB) that it shares with nobody. Throws Error if the memory is not there.
  std::span<std::byte> Allocate(size_t bytes, std::string_view what);

  // What Allocate takes for so many bytes: whole pages, huge ones for what is big.
  static size_t BytesTaken(size_t bytes);

 private:
  std::vector<HugePageBuffer> buffers_;
  std::span<std::byte> free_;  // the rest of the current chunk
};

}  // namespace fiddler
