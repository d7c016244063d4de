// Which part of a ring of bytes is free: what operations bring to the device lies there until the device is
// done with it, oldest first. Only positions, no memory and no CUDA in here; whoever asks knows when a mark
// is reached.
//
// One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace fiddler::cuda {

class UploadRing {
 public:
  static constexpr size_t kAlignment = 256;  // of offsets

  // `bytes` is a multiple of kAlignment. At most max_marks marks at a time.
  UploadRing(size_t bytes, int max_marks);

  size_t bytes() const { return bytes_; }

  // The offset of so many bytes in a row (at most bytes()); nothing: the oldest mark must be retired first.
  std::optional<size_t> Take(size_t bytes);

  // All that was taken since the last mark belongs to this one; nothing: that is nothing. Numbers are below
  // max_marks and used again once they are retired. Not while MarksFull().
  std::optional<int> Mark();
  bool MarksFull() const { return next_mark_ - first_mark_ == marks_.size(); }

  // The oldest mark that was not retired; nothing: there is none.
  std::optional<int> Oldest() const;
  void Retire();  // the oldest: what belongs to it is free

 private:
  const size_t bytes_;
  // Counted on and on; the place in the ring is the rest of the division by bytes_.
  uint64_t head_ = 0;            // the next free byte
  uint64_t tail_ = 0;            // the first byte in use
  uint64_t marked_ = 0;          // up to here marks have it
  std::vector<uint64_t> marks_;  // [max_marks] the head at each mark
  uint64_t first_mark_ = 0;      // oldest and next, counted on and on
  uint64_t next_mark_ = 0;
};

}  // namespace fiddler::cuda
