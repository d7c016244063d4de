#include "experts/expert_store.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {
namespace {

int64_t SliceBytes(std::span<const SlicedFfn> experts) {
  int64_t bytes = 0;
  for (const SlicedFfn& expert : experts) {
    if (expert.data == nullptr) continue;
    CHECK(bytes == 0 || bytes == expert.slice_bytes(), "slices of {} and {} bytes", bytes,
          expert.slice_bytes());
    bytes = expert.slice_bytes();
  }
  return bytes;
}

}  // namespace

uint64_t ExpertStore::SlotBytes(int64_t num_slots, int64_t slice_bytes) {
  return static_cast<uint64_t>((num_slots + kRingSlots) * slice_bytes);
}

ExpertStore::ExpertStore(std::span<const SlicedFfn> experts, const ResidencyOptions& options, Device& device,
                         FiddlerStream compute, DeviceArena& arena)
    : experts_(experts),
      slice_bytes_(SliceBytes(experts)),
      residency_(options),
      device_(device),
      compute_(compute),
      copies_(device.CreateStream()),
      slots_(arena.Take(SlotBytes(options.num_slots, slice_bytes_), "slots of experts")),
      arrived_(device.CreateEvent()) {
  CHECK(std::ssize(experts) == options.num_layers * options.num_experts, "{} experts", experts.size());
  for (int64_t i = 0; i < kRingChunks; ++i) ring_.push_back({.read = device.CreateEvent()});
  fetched_.reserve(static_cast<size_t>(kChunkSlices));
}

void ExpertStore::Place(std::span<const ExpertId> ids) {
  for (const ExpertId id : ids) {
    for (int64_t slice = residency_.Resident(id); slice < expert(id).num_slices(); ++slice) {
      const std::optional<Residency::Admission> admission = residency_.Admit(id);
      if (!admission) break;
      Copy(id, slice, SlotAddress(admission->slot));
    }
  }
  device_.Synchronize(copies_);
}

void ExpertStore::BeginLayer(std::span<const ExpertId> ids) {
  residency_.Pin(ids);
  for (RingPart& part : ring_) part.used = false;
}

void ExpertStore::Append(FiddlerAddress slice, std::vector<Run>& runs) const {
  if (!runs.empty()) {
    Run& last = runs.back();
    if (last.slice + static_cast<FiddlerAddress>(last.num_slices * slice_bytes_) == slice) {
      ++last.num_slices;
      return;
    }
  }
  runs.push_back({slice, 1});
}

void ExpertStore::Resident(ExpertId id, int64_t count, std::vector<Run>& runs) const {
  for (int64_t slice = 0; slice < count; ++slice) Append(SlotAddress(residency_.Slot(id, slice)), runs);
}

void ExpertStore::Copy(ExpertId id, int64_t slice, FiddlerAddress to) {
  device_.CopyIn(copies_, to, expert(id).data + slice * slice_bytes_, static_cast<uint64_t>(slice_bytes_));
  bytes_copied_ += static_cast<uint64_t>(slice_bytes_);
}

int64_t ExpertStore::NextRing() {
  const int64_t ring = next_ring_;
  next_ring_ = (next_ring_ + 1) % kRingChunks;
  RingPart& part = ring_[static_cast<size_t>(ring)];
  if (part.used) device_.WaitEvent(copies_, part.read);
  part.used = false;
  return ring;
}

ExpertStore::Chunk ExpertStore::Fetch(ExpertId id, int64_t first, int64_t count) {
  CHECK(count > 0 && count <= kChunkSlices, "{} slices", count);
  fetched_.clear();
  int64_t ring = kStays;
  for (int64_t i = 0; i < count; ++i) {
    std::optional<Residency::Admission> admission;
    if (ring == kStays && residency_.Resident(id) == first + i) admission = residency_.Admit(id);
    if (!admission && ring == kStays) ring = NextRing();
    const FiddlerAddress to = admission
                                  ? SlotAddress(admission->slot)
                                  : SlotAddress(residency_.options().num_slots + ring * kChunkSlices + i);
    Copy(id, first + i, to);
    Append(to, fetched_);
  }
  device_.Record(copies_, arrived_);
  device_.WaitEvent(compute_, arrived_);
  return {.runs = fetched_, .ring = ring};
}

void ExpertStore::Done(const Chunk& chunk) {
  if (chunk.ring == kStays) return;
  RingPart& part = ring_[static_cast<size_t>(chunk.ring)];
  device_.Record(compute_, part.read);
  part.used = true;
}

void ExpertStore::FetchIdle(ExpertId id, int64_t first, int64_t count) {
  const int64_t ring = NextRing();
  for (int64_t i = 0; i < count; ++i) {
    Copy(id, first + i, SlotAddress(residency_.options().num_slots + ring * kChunkSlices + i));
  }
}

}  // namespace fiddler
