#include "device/cuda_runtime/upload_ring.h"

namespace fiddler::cuda {

UploadRing::UploadRing(size_t bytes, int max_marks) : bytes_(bytes), marks_(static_cast<size_t>(max_marks)) {}

std::optional<size_t> UploadRing::Take(size_t bytes) {
  const uint64_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (tail_ == head_) {  // empty: begin where there is most room
    head_ = tail_ = marked_ = (head_ + bytes_ - 1) / bytes_ * bytes_;
  }
  uint64_t begin = head_;
  if (begin % bytes_ + size > bytes_) begin += bytes_ - begin % bytes_;  // in a row: from the start
  if (begin + size - tail_ > bytes_) return std::nullopt;
  head_ = begin + size;
  return begin % bytes_;
}

std::optional<int> UploadRing::Mark() {
  if (head_ == marked_) return std::nullopt;
  const size_t number = next_mark_++ % marks_.size();
  marks_[number] = marked_ = head_;
  return static_cast<int>(number);
}

std::optional<int> UploadRing::Oldest() const {
  if (first_mark_ == next_mark_) return std::nullopt;
  return static_cast<int>(first_mark_ % marks_.size());
}

void UploadRing::Retire() { tail_ = marks_[first_mark_++ % marks_.size()]; }

}  // namespace fiddler::cuda
