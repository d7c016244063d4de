// Threads that read experts from a packed file into memory, in the order in which they were asked for, each
// in pieces that the threads share: so one expert comes as fast as many.
#pragma once

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "experts/packed_file.h"

namespace fiddler {

// One expert on its way. Belongs to the caller, who leaves it alone between Start and the end of Wait.
class ExpertRead {
 public:
  explicit ExpertRead(int64_t pieces) : sums_(static_cast<size_t>(pieces)) {}

  bool failed() const { return state_.load(std::memory_order_acquire) == kFailed; }
  bool done() const { return state_.load(std::memory_order_acquire) != kReading; }

 private:
  friend class ExpertReader;
  enum State : uint32_t { kIdle, kReading, kRead, kFailed };

  int64_t index_ = 0;           // in the file
  std::byte* out_ = nullptr;    // header().stride() bytes, on a page
  int64_t next_piece_ = 0;      // guarded by the reader's mutex
  std::vector<uint64_t> sums_;  // [pieces], each written by who read it
  std::atomic<int64_t> pieces_left_{0};
  std::atomic<bool> has_failure_{false};
  std::exception_ptr failure_;  // written by the first thread that sets has_failure_
  std::atomic<uint32_t> state_{kIdle};
};

// Start and Wait: by one thread at a time. Neither allocates.
class ExpertReader {
 public:
  struct Options {
    // Four reads of 4 MiB at a time: docs/decisions.md.
    int threads = 4;
    // Where they may run; the thread that makes them may be pinned to one core (base/thread_pool.h).
    std::optional<cpu_set_t> affinity = std::nullopt;
  };

  // `file` must outlive the reader. At most `max_reads` are under way at a time. Throws Error if the system
  // refuses a thread.
  ExpertReader(const PackedFile& file, int64_t max_reads, const Options& options);
  ~ExpertReader();  // what has not begun is dropped
  ExpertReader(const ExpertReader&) = delete;
  ExpertReader& operator=(const ExpertReader&) = delete;

  // Begins to read expert `index` of the file to `out`, on a page, with room for header().stride().
  void Start(ExpertRead& read, int64_t index, std::byte* out);

  // Until it is read. Throws Error where the disk failed or the checksum is wrong.
  void Wait(ExpertRead& read);

 private:
  void Loop();
  void ReadPiece(ExpertRead& read, int64_t piece);
  void Finish(ExpertRead& read);
  void Stop();

  const PackedFile& file_;
  std::mutex mutex_;                // guards what is below
  std::condition_variable asked_;   // something is in the queue, or it is time to stop
  std::vector<ExpertRead*> queue_;  // a ring
  size_t queue_head_ = 0;
  size_t queue_size_ = 0;
  bool stop_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace fiddler
