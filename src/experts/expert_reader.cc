#include "experts/expert_reader.h"

#include <pthread.h>

#include <system_error>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"

namespace fiddler {

ExpertReader::ExpertReader(const PackedFile& file, int64_t max_reads, const Options& options)
    : file_(file), queue_(static_cast<size_t>(max_reads)) {
  threads_.reserve(static_cast<size_t>(options.threads));
  for (int i = 0; i < options.threads; ++i) {
    try {
      threads_.emplace_back([this, affinity = options.affinity] {
        // A hint: refused in some sandboxes, and that is fine.
        if (affinity) pthread_setaffinity_np(pthread_self(), sizeof(*affinity), &*affinity);
        Loop();
      });
    } catch (const std::system_error& error) {
      Stop();  // the threads that started would wait forever
      throw Error("threads: expected to start {} that read, got {}: {}", options.threads, i, error.what());
    }
  }
}

ExpertReader::~ExpertReader() { Stop(); }

void ExpertReader::Stop() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  asked_.notify_all();
  threads_.clear();  // joins
}

void ExpertReader::Start(ExpertRead& read, int64_t index, std::byte* out) {
  CHECK(read.done() && read.sums_.size() == static_cast<size_t>(file_.pieces()), "expert {}", read.index_);
  read.index_ = index;
  read.out_ = out;
  read.next_piece_ = 0;
  read.pieces_left_.store(file_.pieces(), std::memory_order_relaxed);
  read.has_failure_.store(false, std::memory_order_relaxed);
  read.failure_ = nullptr;
  read.state_.store(ExpertRead::kReading, std::memory_order_relaxed);
  {
    const std::scoped_lock lock(mutex_);  // also hands over what was just written
    CHECK(queue_size_ < queue_.size(), "{} reads", queue_size_);
    queue_[(queue_head_ + queue_size_++) % queue_.size()] = &read;
  }
  asked_.notify_all();
}

void ExpertReader::Wait(ExpertRead& read) {
  while (!read.done()) read.state_.wait(ExpertRead::kReading, std::memory_order_acquire);
  if (read.failed()) std::rethrow_exception(read.failure_);
}

void ExpertReader::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return stop_ || queue_size_ > 0; });
    if (stop_) return;
    ExpertRead& read = *queue_[queue_head_];
    const int64_t piece = read.next_piece_++;
    if (read.next_piece_ == file_.pieces()) {
      queue_head_ = (queue_head_ + 1) % queue_.size();
      --queue_size_;
    }
    lock.unlock();
    ReadPiece(read, piece);
    if (read.pieces_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) Finish(read);
    lock.lock();
  }
}

// Exceptions do not cross threads: the first one of an expert waits for who waits for the expert.
void ExpertReader::ReadPiece(ExpertRead& read, int64_t piece) {
  try {
    std::byte* const out = read.out_ + static_cast<uint64_t>(piece) * PackedHeader::kPieceBytes;
    file_.ReadPiece(read.index_, piece, out);
    read.sums_[static_cast<size_t>(piece)] = Checksum64({out, file_.PieceBytes(piece)});
  } catch (...) {
    if (!read.has_failure_.exchange(true, std::memory_order_relaxed))
      read.failure_ = std::current_exception();
  }
}

// By the thread that read the last piece.
void ExpertReader::Finish(ExpertRead& read) {
  if (!read.has_failure_.load(std::memory_order_relaxed)) {
    uint64_t sum = 0;
    for (const uint64_t piece : read.sums_) sum = ChecksumStep(sum, piece);
    try {
      file_.RequireChecksum(read.index_, sum);
    } catch (...) {
      read.has_failure_.store(true, std::memory_order_relaxed);
      read.failure_ = std::current_exception();
    }
  }
  const bool failed = read.has_failure_.load(std::memory_order_relaxed);
  read.state_.store(failed ? ExpertRead::kFailed : ExpertRead::kRead, std::memory_order_release);
  read.state_.notify_all();
}

}  // namespace fiddler
