// Which parts of one run of device memory are taken. The plugin takes all it may use in one piece when it
// opens: so the cap is kept exactly (cudaMalloc rounds to 2 MiB, and an engine asks for hundreds of pieces),
// nobody else can take it away, and nothing is allocated on the GPU while it waits for the host. No CUDA in
// here.
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <map>

namespace fiddler::cuda {

class SubAllocator {
 public:
  static constexpr uint64_t kAlignment = 256;  // of offsets; sizes are counted in multiples of it

  explicit SubAllocator(uint64_t bytes);

  // The offset of so many bytes, at the first place they fit; also nothing takes a place of its own. Throws
  // std::runtime_error if there is none.
  uint64_t Allocate(uint64_t bytes);
  // Throws std::runtime_error if Allocate did not give it, or it was released since.
  void Release(uint64_t offset);

  // That all of it lies in one allocation. No bytes lie anywhere.
  bool Contains(uint64_t offset, uint64_t bytes) const;

  uint64_t cap_bytes() const { return cap_bytes_; }
  uint64_t used_bytes() const { return used_bytes_; }
  uint64_t peak_bytes() const { return peak_bytes_; }

 private:
  uint64_t LargestFree() const;

  const uint64_t cap_bytes_;
  uint64_t used_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
  std::map<uint64_t, uint64_t> free_;   // offset -> bytes; two never touch
  std::map<uint64_t, uint64_t> taken_;  // offset -> bytes
};

}  // namespace fiddler::cuda
