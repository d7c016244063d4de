#include "experts/residency.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace fiddler {
namespace {

EvictionQueue MakeQueue(const ResidencyOptions& options, int64_t num_keys) {
  const bool counts = options.eviction == Eviction::kDecayedFrequency;
  return {counts ? EvictionQueue::Worth::kDecayedTokens : EvictionQueue::Worth::kNothing,
          static_cast<int32_t>(num_keys), options.decay};
}

}  // namespace

Residency::Residency(const ResidencyOptions& options) : options_(options) {
  CHECK(options.num_layers >= 1 && options.num_experts >= 0 && options.num_slices >= 0 &&
            options.num_slots >= 0,
        "{} layers, {} experts, {} slices, {} slots", options.num_layers, options.num_experts,
        options.num_slices, options.num_slots);
  CHECK(options.is_moe.empty() || std::ssize(options.is_moe) == options.num_layers, "{} layers, {} told",
        options.num_layers, options.is_moe.size());
  const int64_t experts = options.num_layers * options.num_experts;
  resident_.resize(static_cast<size_t>(experts));
  slots_.resize(static_cast<size_t>(experts * options.num_slices));
  const int64_t num_pools = options.per_layer ? options.num_layers : 1;
  const auto has_slots = [&](int64_t pool) {
    return !options.per_layer || options.is_moe.empty() || options.is_moe[static_cast<size_t>(pool)] != 0;
  };
  int64_t sharers = 0;
  for (int64_t i = 0; i < num_pools; ++i) sharers += has_slots(i) ? 1 : 0;
  SlotId next_slot = 0;
  pools_.reserve(static_cast<size_t>(num_pools));
  for (int64_t i = 0; i < num_pools; ++i) {
    Pool& pool = pools_.emplace_back(MakeQueue(options, experts / num_pools));
    pool.first_id = static_cast<ExpertId>(i * (experts / num_pools));
    if (!has_slots(i)) continue;
    pool.free.resize(static_cast<size_t>(options.num_slots / sharers));
    std::iota(pool.free.rbegin(), pool.free.rend(), next_slot);  // the lowest slot first
    next_slot += static_cast<SlotId>(pool.free.size());
  }
  pinned_.reserve(static_cast<size_t>(experts));
}

size_t Residency::IndexOf(ExpertId id) const {
  CHECK(id >= 0 && static_cast<size_t>(id) < resident_.size(), "expert {} of {}", id, resident_.size());
  return static_cast<size_t>(id);
}

size_t Residency::PoolOf(ExpertId id) const {
  const size_t index = IndexOf(id);
  return pools_.size() == 1 ? 0 : index / static_cast<size_t>(options_.num_experts);
}

SlotId& Residency::SlotOf(ExpertId id, int64_t slice) {
  return slots_[IndexOf(id) * static_cast<size_t>(options_.num_slices) + static_cast<size_t>(slice)];
}

int64_t Residency::Resident(ExpertId id) const { return resident_[IndexOf(id)]; }

SlotId Residency::Slot(ExpertId id, int64_t slice) const {
  CHECK(slice >= 0 && slice < Resident(id), "slice {} of expert {}, which has {} resident", slice, id,
        Resident(id));
  return slots_[IndexOf(id) * static_cast<size_t>(options_.num_slices) + static_cast<size_t>(slice)];
}

double Residency::Worth(ExpertId id) const {
  const Pool& pool = pools_[PoolOf(id)];
  return pool.queue.WorthOf(id - pool.first_id);
}

void Residency::AdvanceTokens(int64_t tokens) {
  for (Pool& pool : pools_) pool.queue.AdvanceTokens(tokens);
}

void Residency::Want(ExpertId id, int64_t tokens) {
  Pool& pool = pools_[PoolOf(id)];
  pool.queue.Touch(id - pool.first_id, tokens);
}

void Residency::Pin(std::span<const ExpertId> ids) {
  for (const ExpertId id : pinned_) pools_[PoolOf(id)].unpinned += Resident(id);
  pinned_.clear();
  for (Pool& pool : pools_) pool.queue.UnpinAll();
  for (const ExpertId id : ids) {
    Pool& pool = pools_[PoolOf(id)];
    if (pool.queue.IsPinned(id - pool.first_id)) continue;
    pool.queue.Pin(id - pool.first_id);
    pool.unpinned -= Resident(id);
    pinned_.push_back(id);
  }
}

std::optional<ExpertId> Residency::Victim(const Pool& pool, ExpertId id) const {
  if (options_.eviction == Eviction::kNever) return std::nullopt;
  const CacheKey key = id - pool.first_id;
  const std::optional<CacheKey> victim = pool.queue.First(key);
  if (!victim) return std::nullopt;
  const bool is_worth_it =
      options_.eviction == Eviction::kLru || pool.queue.WorthOf(*victim) < pool.queue.WorthOf(key);
  if (!is_worth_it) return std::nullopt;
  return pool.first_id + *victim;
}

int64_t Residency::Room(ExpertId id) const {
  const Pool& pool = pools_[PoolOf(id)];
  auto room = static_cast<int64_t>(pool.free.size());
  if (Victim(pool, id)) {
    room += pool.unpinned;
    if (!pool.queue.IsPinned(id - pool.first_id)) room -= Resident(id);
  }
  return std::min(room, options_.num_slices - Resident(id));
}

std::optional<Residency::Admission> Residency::Admit(ExpertId id) {
  int64_t& resident = resident_[IndexOf(id)];
  CHECK(resident < options_.num_slices, "all {} slices of expert {} are resident", resident, id);
  Pool& pool = pools_[PoolOf(id)];
  Admission admission;
  if (!pool.free.empty()) {
    admission.slot = pool.free.back();
    pool.free.pop_back();
    ++num_resident_;
  } else {
    admission.evicted = Victim(pool, id);
    if (!admission.evicted) return std::nullopt;
    int64_t& left = resident_[IndexOf(*admission.evicted)];
    --left;
    admission.slot = SlotOf(*admission.evicted, left);
    if (left == 0) pool.queue.Erase(*admission.evicted - pool.first_id);
    --pool.unpinned;
  }
  SlotOf(id, resident) = admission.slot;
  ++resident;
  pool.queue.Insert(id - pool.first_id);
  if (!pool.queue.IsPinned(id - pool.first_id)) ++pool.unpinned;
  return admission;
}

}  // namespace fiddler
