// Which host memory the emulated device was told of: what it allocated itself and what the host pinned. Flags
// may lie only there.
//
// Any number of threads: one may pin while another looks up its flags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>

namespace fiddler::emulated {

class PinnedMemory {
 public:
  std::byte* Allocate(uint64_t bytes);  // poisoned
  void Release(const void* data);       // throws Error if Allocate did not give it

  // Memory of the host's own. Throws Error if it overlaps what is pinned, or was not.
  void Pin(const void* data, uint64_t bytes);
  void Unpin(const void* data);

  // Throws Error if no flag can lie there; `what` opens the message.
  void RequireFlag(const uint32_t* flag, std::string_view what) const;

 private:
  struct FreeAligned {
    void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
  };
  struct Range {
    uint64_t bytes = 0;
    std::unique_ptr<std::byte, FreeAligned> owned;  // null: the host's
  };
  static constexpr std::align_val_t kAlignment{4096};

  void Remove(const void* data, bool owned, std::string_view call);
  bool Overlaps(uintptr_t begin, uint64_t bytes) const;

  mutable std::mutex mutex_;           // guards what follows
  std::map<uintptr_t, Range> ranges_;  // by first address
};

}  // namespace fiddler::emulated
