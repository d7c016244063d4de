#include "cli/disk_bench.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "base/rng.h"
#include "base/timing.h"
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
    readers.reserve(static_cast<size_t>(threads));
    for (int thread = 0; thread < threads; ++thread) readers.emplace_back(read, thread);
  }
  if (failure) std::rethrow_exception(failure);
  return static_cast<double>(bytes) / std::chrono::duration<double>(Clock::now() - start).count();
}

double DiskBench::MeasureLimit() {
  constexpr double kSeconds = 1;
  limits_.push_back(DiskReadRate(*experts_.file(), kSeconds, probes_++) / 1e9);
  return limits_.back();
}

void DiskBench::BeginRound() {
  if (!experts_.in_memory()) limit_before_ = MeasureLimit();
}

void DiskBench::Start() { before_ = experts_.traffic(); }

void DiskBench::Finish(Phase phase, double seconds) {
  if (experts_.in_memory()) return;
  const HostExperts::Traffic after = experts_.traffic();
  const auto hits = static_cast<double>(after.hits - before_.hits);
  const auto misses = static_cast<double>(after.misses - before_.misses);
  const double gbps = static_cast<double>(after.bytes_read - before_.bytes_read) / seconds / 1e9;
  const double limit_after = MeasureLimit();
  Samples& samples = phases_[phase];
  samples.hit_rate.push_back(hits + misses > 0 ? hits / (hits + misses) : 1);
  samples.gbps.push_back(gbps);
  samples.percent.push_back(100 * gbps / ((limit_before_ + limit_after) / 2));
  samples.percent_waited.push_back(100 * (after.seconds_waited - before_.seconds_waited) / seconds);
  limit_before_ = limit_after;
}

OrderedJson DiskBench::Describe() const {
  if (experts_.in_memory()) return nullptr;
  const auto describe = [&](Phase phase) -> OrderedJson {
    const Samples& samples = phases_[phase];
    return {{"hit_rate", Median(samples.hit_rate)},
            {"gbps", Median(samples.gbps)},
            {"percent_of_limit", Median(samples.percent)},
            {"percent_waited", Median(samples.percent_waited)}};
  };
  return {{"limit_gbps", Median(limits_)},
          {"expert_slots", experts_.num_slots()},
          {"prefill", describe(kPrefill)},
          {"decode", describe(kDecode)}};
}

void DiskBench::Print(const OrderedJson& description) {
  for (const char* phase : {"prefill", "decode"}) {
    const OrderedJson& figures = description[phase];
    WriteOutput(
        fmt::format("disk     {:<7} {:>5.1f}% of experts were in memory {:>14.2f} GB/s {:>9.1f}% of {:.2f} "
                    "(random reads), {:.1f}% of the time waited for\n",
                    phase, 100 * figures["hit_rate"].get<double>(), figures["gbps"].get<double>(),
                    figures["percent_of_limit"].get<double>(), description["limit_gbps"].get<double>(),
                    figures["percent_waited"].get<double>()));
  }
}

}  // namespace fiddler
