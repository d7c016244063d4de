// What a benchmark reads of experts in a packed file, beside how fast that file can be read at all.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cli/output.h"
#include "experts/host_experts.h"

namespace fiddler {

// Bytes a second, wall time: random pieces, as many at a time as an ExpertReader reads, past the page cache,
// for about `seconds`; nothing is computed from them. The machine below may have a cache of its own: seeds
// that differ read other pieces. Throws Error where the disk fails.
double DiskReadRate(const PackedFile& file, double seconds, uint64_t seed);

// Every phase of every round is held against the mean of the rates measured right before and right after it,
// since disks that are shared, or throttled, change from one second to the next. Does nothing where all
// experts are in memory.
class DiskBench {
 public:
  enum Phase : size_t { kPrefill, kDecode };

  explicit DiskBench(const HostExperts& experts) : experts_(experts) {}  // which must outlive this object

  void BeginRound();                         // takes a second
  void Start();                              // a phase begins
  void Finish(Phase phase, double seconds);  // the phase since Start took so long; takes a second

  // Medians: limit_gbps, expert_slots and, of each phase, hit_rate, gbps, percent_of_limit and
  // percent_waited, of its time, for experts that were not there yet; null if all experts are in memory.
  OrderedJson Describe() const;
  static void Print(const OrderedJson& description);

 private:
  struct Samples {
    std::vector<double> hit_rate, gbps, percent, percent_waited;
  };

  double MeasureLimit();

  const HostExperts& experts_;
  HostExperts::Traffic before_;
  uint64_t probes_ = 0;
  double limit_before_ = 0;  // GB/s
  std::vector<double> limits_;
  std::array<Samples, 2> phases_;
};

}  // namespace fiddler
