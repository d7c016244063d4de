#include "cli/disk_bench.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "base/rng.h"
#include "experts/expert_reader.h"

namespace fiddler {

double DiskReadRate(const PackedFile& file, double seconds, uint64_t seed) {
  using Clock = std::chrono::steady_clock;
  const int threads = ExpertReader::Options().threads;
  const HugePageBuffer memory(static_cast<uint64_t>(threads) * PackedHeader::kPieceBytes, "disk probe");
  std::atomic<uint64_t> bytes = 0;
  std::mutex mutex;
  std::exception_ptr failure;  // guarded by mutex
  const Clock::time_point start = Clock::now();
  const auto read = [&](int thread) {
    Rng rng(seed * static_cast<uint64_t>(threads) + static_cast<uint64_t>(thread));
    std::byte* const out = memory.bytes().data() + static_cast<uint64_t>(thread) * PackedHeader::kPieceBytes;
    try {
      while (std::chrono::duration<double>(Clock::now() - start).count() < seconds) {
        const auto index =
            static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(file.header().count()));
        const auto piece = static_cast<int64_t>(rng.NextBits() % static_cast<uint64_t>(file.pieces()));
        file.ReadPiece(index, piece, out);
        bytes += file.PieceBytes(piece);
      }
    } catch (...) {
      const std::scoped_lock lock(mutex);
      failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> readers;
    for (int thread = 0; thread < threads; ++thread) readers.emplace_back(read, thread);
  }
  if (failure) std::rethrow_exception(failure);
  return static_cast<double>(bytes) / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace fiddler
