#include "experts/expert_store.h"

#include "base/check.h"

namespace fiddler {

uint64_t ExpertStore::SlotBytes(int64_t num_slots, int64_t slice_bytes) {
  return static_cast<uint64_t>((num_slots + kRingSlots) * slice_bytes);
}

ExpertStore::ExpertStore(HostExperts& host, int64_t slice_bytes, const ResidencyOptions& options,
                         Device& device, FiddlerStream compute, DeviceArena& arena)
    : host_(host),
      slice_bytes_(slice_bytes),
      residency_(options),
      device_(device),
      compute_(compute),
      copies_(device.CreateStream()),
      slots_(arena.Take(SlotBytes(options.num_slots, slice_bytes_), "slots of experts")),
      arrived_(device.CreateEvent()) {
  for (int64_t i = 0; i < kRingChunks; ++i) ring_.push_back({.read = device.CreateEvent()});
  fetched_.reserve(static_cast<size_t>(kChunkSlices));
}

void ExpertStore::Place(std::span<const ExpertId> ids) {
  const int64_t num_experts = residency_.options().num_experts;
  for (const ExpertId id : ids) {
    const ExpertNeed need = {.expert = static_cast<int32_t>(id % num_experts), .tokens = 1};
    host_.Request(id / num_experts, 0, {&need, 1});
    const SlicedFfn& expert = host_.Wait(0);
    for (int64_t slice = residency_.Resident(id); slice < expert.num_slices(); ++slice) {
      const std::optional<Residency::Admission> admission = residency_.Admit(id);
      if (!admission) break;
      Copy(expert, slice, SlotAddress(admission->slot));
    }
    if (!host_.in_memory()) FinishCopies();
    host_.Release(0);
  }
  FinishCopies();
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

void ExpertStore::Copy(const SlicedFfn& expert, int64_t slice, FiddlerAddress to) {
  device_.CopyIn(copies_, to, expert.data + slice * slice_bytes_, static_cast<uint64_t>(slice_bytes_));
}

int64_t ExpertStore::NextRing() {
  const int64_t ring = next_ring_;
  next_ring_ = (next_ring_ + 1) % kRingChunks;
  RingPart& part = ring_[static_cast<size_t>(ring)];
  if (part.used) device_.WaitEvent(copies_, part.read);
  part.used = false;
  return ring;
}

ExpertStore::Chunk ExpertStore::Fetch(ExpertId id, const SlicedFfn& expert, int64_t first, int64_t count) {
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
    Copy(expert, first + i, to);
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

void ExpertStore::FetchIdle(const SlicedFfn& expert, int64_t first, int64_t count) {
  const int64_t ring = NextRing();
  for (int64_t i = 0; i < count; ++i) {
    Copy(expert, first + i, SlotAddress(residency_.options().num_slots + ring * kChunkSlices + i));
  }
}

}  // namespace fiddler
