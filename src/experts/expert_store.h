// The slices of routed experts that are in device memory. Carries out what Residency decides: copies slices
// from the host (host_experts.h) into slots, tells the compute stream when to wait for them and the copy
// stream when a slot may be written to.
//
// Two kinds of slots, in one run of device memory. The pool: slices that stay (Residency). The ring: a few
// slots that slices pass through when the pool has no room for them.
//
// Why a slot may be overwritten without waiting: nothing of the layer at hand is evicted, and the routing of
// a layer reaches the host only after the compute stream, which runs in order, has finished with the layers
// before (BeginLayer). So whatever is evicted was used for the last time already. Only slots of the ring are
// used again within a layer; they have events.
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/device_arena.h"
#include "experts/host_experts.h"
#include "experts/residency.h"
#include "experts/slice.h"

namespace fiddler {

class ExpertStore {
 public:
  // Slices that are copied, waited for and computed together: few enough that computing begins soon, enough
  // to make starting a copy cheap (8 slices of 3 MB take a millisecond of PCI Express).
  static constexpr int64_t kChunkSlices = 8;
  // Chunks the ring has room for: one is computed while the next arrives and one waits its turn.
  static constexpr int64_t kRingChunks = 3;
  static constexpr int64_t kRingSlots = kRingChunks * kChunkSlices;

  // Slices that lie one behind the other on the device.
  struct Run {
    FiddlerAddress slice = 0;
    int64_t num_slices = 0;
  };

  // Slices on their way, in at most kChunkSlices runs.
  struct Chunk {
    std::span<const Run> runs;  // valid until the next call of Fetch
    int64_t ring = kStays;      // its part of the ring, to give back to Done
  };
  static constexpr int64_t kStays = -1;  // in the pool

  // All experts have slices of so many bytes. The host's experts, the device and the arena, which gives
  // SlotBytes(..) of memory, must outlive the store.
  ExpertStore(HostExperts& host, int64_t slice_bytes, const ResidencyOptions& options, Device& device,
              FiddlerStream compute, DeviceArena& arena);

  // Device memory for so many slots of the pool, and the ring.
  static uint64_t SlotBytes(int64_t num_slots, int64_t slice_bytes);

  Residency& residency() { return residency_; }
  // Fills the slots: all slices of each expert, in order, as far as there is room. Waits for the copies.
  void Place(std::span<const ExpertId> ids);

  // The compute stream has finished with all layers before; these experts, of the next one, lose no slice.
  void BeginLayer(std::span<const ExpertId> ids);

  // Resident slices [0, count) of an expert, in runs appended to `runs`.
  void Resident(ExpertId id, int64_t count, std::vector<Run>& runs) const;

  // Starts to copy slices [first, first + count), count at most kChunkSlices, to where there is room: the
  // pool, as far as the residency admits them, else the ring. The compute stream waits for the copy.
  Chunk Fetch(ExpertId id, const SlicedFfn& expert, int64_t first, int64_t count);

  // The compute stream has been given all work that reads the chunk.
  void Done(const Chunk& chunk);

  // As Fetch and Done for slices that nobody reads.
  void FetchIdle(const SlicedFfn& expert, int64_t first, int64_t count);

  // Waits until every copy is done: the host's memory may be given to other experts.
  void FinishCopies() { device_.Synchronize(copies_); }

 private:
  FiddlerAddress SlotAddress(int64_t slot) const {
    return slots_ + static_cast<FiddlerAddress>(slot * slice_bytes_);
  }
  void Append(FiddlerAddress slice, std::vector<Run>& runs) const;
  int64_t NextRing();  // its next user; the copy stream waits for the last one
  void Copy(const SlicedFfn& expert, int64_t slice, FiddlerAddress to);

  HostExperts& host_;
  const int64_t slice_bytes_;
  Residency residency_;
  Device& device_;
  const FiddlerStream compute_;
  const FiddlerStream copies_;
  const FiddlerAddress slots_;  // the pool, then the ring
  const FiddlerEvent arrived_;
  struct RingPart {
    FiddlerEvent read;  // by the compute stream
    bool used = false;  // in this layer
  };
  std::vector<RingPart> ring_;  // [kRingChunks]
  int64_t next_ring_ = 0;
  std::vector<Run> fetched_;
};

}  // namespace fiddler
