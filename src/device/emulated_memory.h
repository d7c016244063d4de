// The memory of the emulated device. Its addresses are nobody's pointers: no processor can map them, none is
// ever given out twice, and a gap lies behind every allocation. So an overrun or a use after release is found
// by whoever translates an address, which is what an operation does when it runs.
//
// Any number of threads may translate while one allocates and releases other memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "base/memory.h"
#include "device/plugin.h"
#include "device/workers.h"

namespace fiddler::emulated {

class EmulatedMemory {
 public:
  static constexpr uint64_t kAlignment = 256;  // of what is allocated; sizes are counted in multiples of it

  // The pool must outlive this object.
  EmulatedMemory(uint64_t cap_bytes, Workers workers);

  FiddlerMemory usage() const;

  // Poisoned. Throws Error if it would exceed the cap, or if the machine has no memory left.
  FiddlerAddress Allocate(uint64_t bytes);
  // Throws Error if nothing is allocated there.
  void Release(FiddlerAddress address);

  // Where the host has the `bytes` from `address` on; null if there are none. Throws Error if they are not
  // all in one allocation, or the address is not a multiple of `alignment`; `what` opens the message.
  std::byte* Translate(FiddlerAddress address, uint64_t bytes, uint64_t alignment,
                       std::string_view what) const;

 private:
  struct FreeAligned {
    void operator()(std::byte* data) const { ::operator delete (data, std::align_val_t{kAlignment}); }
  };
  struct Allocation {
    uint64_t bytes = 0;  // as asked for
    bool released = false;
    std::unique_ptr<std::byte, FreeAligned> small;
    HugePageBuffer large;
    std::byte* data() const { return small ? small.get() : large.bytes().data(); }
  };

  const uint64_t cap_bytes_;
  const Workers workers_;
  mutable std::mutex mutex_;  // guards what follows
  uint64_t used_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
  FiddlerAddress next_;
  std::map<FiddlerAddress, Allocation> allocations_;  // by first address; released ones stay, without data
};

}  // namespace fiddler::emulated
