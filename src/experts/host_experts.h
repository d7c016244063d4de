// Where the CPU, and who copies to a GPU, find the routed experts of a layer: all of them in memory, or as
// many as fit and the others in a packed file (packed_file.h), from which they are read when the router has
// spoken.
//
// With a file, memory is cut into slots of one expert. Which experts keep theirs is decided by decayed
// frequency (cache_policy.h); what a layer asked for keeps its slot until it is released. A layer may ask for
// more experts than there are slots: each release lets the next one in. So as long as experts are waited for
// in the order in which they were asked for, and then released, all get their turn, while up to a slot each
// those that follow are already being read.
//
// Used by one thread at a time, and not for two layers at once. In steady state nothing allocates; where
// everything is in memory nothing is waited for either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/memory.h"
#include "experts/expert_reader.h"
#include "experts/packed_file.h"
#include "experts/slice.h"

namespace fiddler {

struct ExpertNeed {
  int32_t expert = 0;
  int64_t tokens = 0;  // that want it
};

// The experts of every layer, in order of their numbers; none for a layer that has no experts. Must outlive
// whatever it is given to.
using ExpertLayers = std::vector<std::span<const SlicedFfn>>;

class HostExperts {
 public:
  // Since the start.
  struct Traffic {
    int64_t hits = 0;
    int64_t misses = 0;
    uint64_t bytes_read = 0;    // from the file
    double seconds_waited = 0;  // for experts that were not there when they were wanted
  };

  // All in memory: `layers` has their data.
  explicit HostExperts(ExpertLayers layers);
  // In a file; `layers` says how many there are, its data is not looked at. `slots`: at least one expert of
  // file.header().stride() bytes. Throws Error if the system refuses a thread.
  HostExperts(ExpertLayers layers, PackedFile file, HugePageBuffer slots,
              const ExpertReader::Options& options);
  ~HostExperts();
  HostExperts(const HostExperts&) = delete;
  HostExperts& operator=(const HostExperts&) = delete;

  bool in_memory() const { return cache_ == nullptr; }
  int64_t num_slots() const;       // 0: in memory
  const PackedFile* file() const;  // null: in memory
  Traffic traffic() const;
  // Where experts lie, or will: runs of bytes, in order.
  std::vector<std::span<const std::byte>> memory() const;

  // What a layer needs for a batch of `tokens`, each expert once; valid until the last Release. Reading
  // begins. What an earlier request asked for and did not release is released.
  void Request(int64_t layer, int64_t tokens, std::span<const ExpertNeed> needs) {
    experts_ = layers_[static_cast<size_t>(layer)];
    needs_ = needs;
    if (cache_) RequestFromFile(layer, tokens);
  }

  // Whether Wait(i) would return at once.
  bool Ready(size_t i) const { return !cache_ || ReadyFromFile(i); }

  // Expert needs[i], whose slices lie one behind the other (slice.h) and stay there until Release(i). With a
  // file, only if fewer than num_slots() needs before it have not been released. Throws Error where the disk
  // failed or the file is damaged.
  const SlicedFfn& Wait(size_t i) {
    return cache_ ? WaitForFile(i) : experts_[static_cast<size_t>(needs_[i].expert)];
  }

  void Release(size_t i) {  // once, after Wait(i)
    if (cache_) ReleaseToFile(i);
  }

 private:
  class Cache;

  void RequestFromFile(int64_t layer, int64_t tokens);
  bool ReadyFromFile(size_t i) const;
  const SlicedFfn& WaitForFile(size_t i);
  void ReleaseToFile(size_t i);

  ExpertLayers layers_;
  std::span<const SlicedFfn> experts_;  // of the current layer
  std::span<const ExpertNeed> needs_;
  std::unique_ptr<Cache> cache_;  // null: in memory
};

}  // namespace fiddler
