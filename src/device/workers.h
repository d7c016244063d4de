// Loops of the emulated device: over a thread pool, or on the calling thread where there is none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/thread_pool.h"

namespace fiddler::emulated {

class Workers {
 public:
  explicit Workers(ThreadPool* pool) : pool_(pool) {}  // may be null; must outlive this object

  int count() const { return pool_ == nullptr ? 1 : pool_->num_threads(); }

  // body(index, worker) for every index in [0, count), as ThreadPool::ParallelFor.
  template <typename Body>
  void ForEach(int64_t count, Body&& body) const {
    if (pool_ != nullptr) return pool_->ParallelFor(count, body);
    for (int64_t index = 0; index < count; ++index) body(index, 0);
  }

  // body(begin, end, worker) for [0, count) in pieces of `grain`.
  template <typename Body>
  void ForEachPiece(int64_t count, int64_t grain, Body&& body) const {
    ForEach((count + grain - 1) / grain, [&](int64_t index, int worker) {
      body(index * grain, std::min(count, (index + 1) * grain), worker);
    });
  }

  void Fill(std::byte* to, int value, uint64_t bytes) const {
    ForEachPiece(static_cast<int64_t>(bytes), kPieceBytes, [&](int64_t begin, int64_t end, int) {
      std::memset(to + begin, value, static_cast<size_t>(end - begin));
    });
  }

  void Copy(std::byte* to, const std::byte* from, uint64_t bytes) const {
    ForEachPiece(static_cast<int64_t>(bytes), kPieceBytes, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
    });
  }

 private:
  static constexpr int64_t kPieceBytes = 1 << 20;  // worth waking a thread for: some 50 us

  ThreadPool* pool_;
};

// What memory holds before something is written there: NaNs in all formats.
inline constexpr int kPoison = 0xff;

}  // namespace fiddler::emulated
