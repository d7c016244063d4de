#include "base/memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/units.h"

namespace fiddler {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kChunkBytes = size_t{64} << 20;
constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// Kept free for what nobody announces: stacks, page tables, the page cache of the program itself.
constexpr uint64_t kHeadroomBytes = uint64_t{128} << 20;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Files of /proc and /sys have no size, so ReadFile (base/json.h) does not fit. Empty if there is no such
// file.
std::string ReadPseudoFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;  // such as "max", which stands for no limit
  return value;
}

// The number after `key` in lines of "key number".
std::optional<uint64_t> FindNumber(const std::string& text, std::string_view key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key)) continue;
    const size_t digits = line.find_first_not_of(" \t", key.size());
    if (digits == key.size() || digits == std::string::npos) continue;
    return ParseNumber(std::string_view(line).substr(digits));
  }
  return std::nullopt;
}

// What the limit of this one control group leaves; file pages count in memory.current but can be dropped.
uint64_t AvailableInGroup(const std::filesystem::path& group) {
  const std::optional<uint64_t> limit = ParseNumber(ReadPseudoFile(group / "memory.max"));
  const std::optional<uint64_t> current = ParseNumber(ReadPseudoFile(group / "memory.current"));
  if (!limit || !current) return kNoLimit;
  const std::string stat = ReadPseudoFile(group / "memory.stat");
  const uint64_t page_cache =
      FindNumber(stat, "inactive_file").value_or(0) + FindNumber(stat, "active_file").value_or(0);
  const uint64_t used = *current - std::min(*current, page_cache);
  return *limit - std::min(*limit, used);
}

// The least over the group of this process and every group above it.
uint64_t AvailableInGroups(const std::filesystem::path& root) {
  std::istringstream lines(ReadPseudoFile(root / "proc/self/cgroup"));
  uint64_t available = kNoLimit;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("0::/")) continue;  // the v2 hierarchy
    const std::filesystem::path mount = root / "sys/fs/cgroup";
    std::filesystem::path group = std::filesystem::path(line.substr(4)).lexically_normal();
    while (true) {
      available = std::min(available, AvailableInGroup(mount / group));
      if (!group.has_relative_path()) break;
      group = group.parent_path();
    }
  }
  return available;
}

}  // namespace

uint64_t AvailableMemoryBytes(const std::filesystem::path& root) {
  const std::optional<uint64_t> kib = FindNumber(ReadPseudoFile(root / "proc/meminfo"), "MemAvailable:");
  return std::min(kib ? *kib * 1024 : kNoLimit, AvailableInGroups(root));
}

uint64_t ResidentBytes() {
  const std::string status = ReadPseudoFile("/proc/self/status");
  return (FindNumber(status, "RssAnon:").value_or(0) + FindNumber(status, "RssShmem:").value_or(0)) * 1024;
}

uint64_t UsableMemoryBytes() {
  const uint64_t available = AvailableMemoryBytes();
  return available - std::min(available, kHeadroomBytes);
}

void RequireMemory(uint64_t bytes, std::string_view what) {
  const uint64_t usable = UsableMemoryBytes();
  if (bytes > usable) {
    throw Error("{}: expected {} of free memory, got {}", what, FormatBytes(bytes), FormatBytes(usable));
  }
}

HugePageBuffer::HugePageBuffer(size_t bytes, std::string_view what) {
  if (bytes == 0) return;
  RequireMemory(bytes, what);
  // The kernel aligns to small pages: map one huge page more and cut off both ends.
  const size_t length = RoundUp(bytes, kHugePageBytes);
  void* mapping = mmap(nullptr, length + kHugePageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    throw Error("{}: cannot map {} of memory: {}", what, FormatBytes(bytes), std::strerror(errno));
  }
  auto* first = static_cast<std::byte*>(mapping);
  const size_t before =
      RoundUp(reinterpret_cast<uintptr_t>(first), kHugePageBytes) - reinterpret_cast<uintptr_t>(first);
  if (before > 0) munmap(first, before);
  munmap(first + before + length, kHugePageBytes - before);
  madvise(first + before, length, MADV_HUGEPAGE);  // only a hint: without huge pages it is just slower
  bytes_ = {first + before, bytes};
}

HugePageBuffer::HugePageBuffer(HugePageBuffer&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

HugePageBuffer& HugePageBuffer::operator=(HugePageBuffer&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

HugePageBuffer::~HugePageBuffer() {
  if (!bytes_.empty()) munmap(bytes_.data(), RoundUp(bytes_.size(), kHugePageBytes));
}

void HugePageBuffer::Interleave() const {
  // Without NUMA, or where a container forbids these calls, pages lie where they are written first.
  constexpr unsigned long kMaxNodes = 4096;
  unsigned long allowed[kMaxNodes / (8 * sizeof(unsigned long))] = {};
  if (bytes_.empty()) return;
  if (syscall(SYS_get_mempolicy, nullptr, allowed, kMaxNodes, nullptr, MPOL_F_MEMS_ALLOWED) != 0) return;
  syscall(SYS_mbind, bytes_.data(), RoundUp(bytes_.size(), kHugePageBytes), MPOL_INTERLEAVE, allowed,
          kMaxNodes, 0);
}

size_t HugePageArena::BytesTaken(size_t bytes) {
  const size_t length = RoundUp(bytes, kPageBytes);
  return length > kChunkBytes / 4 ? RoundUp(length, kHugePageBytes) : length;
}

std::span<std::byte> HugePageArena::Allocate(size_t bytes, std::string_view what) {
  const size_t length = RoundUp(bytes, kPageBytes);
  if (length > kChunkBytes / 4) {  // a buffer of its own: the end of a chunk wasted on it could be long
    return buffers_.emplace_back(length, what).bytes().first(bytes);
  }
  if (length > free_.size()) free_ = buffers_.emplace_back(kChunkBytes, what).bytes();
  const std::span<std::byte> allocation = free_.first(bytes);
  free_ = free_.subspan(length);
  return allocation;
}

}  // namespace fiddler
