#include "experts/host_experts.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "experts/cache_policy.h"

namespace fiddler {
namespace {

// What a token of now is worth compared with the one after it; sim/hit_rates.h has the same.
constexpr double kDecay = 0.95;

CacheKey CountExperts(const ExpertLayers& layers) {
  size_t count = 0;
  for (const std::span<const SlicedFfn> experts : layers) count += experts.size();
  return static_cast<CacheKey>(count);
}

}  // namespace

// Experts in slots. A key is the expert's place in the file.
class HostExperts::Cache {
 public:
  Cache(const ExpertLayers& layers, PackedFile file, HugePageBuffer memory,
        const ExpertReader::Options& options)
      : file_(std::move(file)),
        memory_(std::move(memory)),
        policy_(CachePolicy::DecayedFrequency(CountExperts(layers), CountSlots(), kDecay)),
        slot_of_key_(static_cast<size_t>(CountExperts(layers))),
        reader_(file_, CountSlots(), options) {
    CHECK(CountExperts(layers) == file_.header().count(), "{} experts of {}", CountExperts(layers),
          file_.header().count());
    size_t most = 0;
    CacheKey first_key = 0;
    for (const std::span<const SlicedFfn> experts : layers) {
      first_key_.push_back(first_key);
      first_key += static_cast<CacheKey>(experts.size());
      most = std::max(most, experts.size());
    }
    slot_of_need_.reserve(most);
    active_.reserve(most);
    for (int32_t i = 0; i < CountSlots(); ++i) {
      SlicedFfn ffn = file_.header().expert;
      ffn.data = memory_.bytes().data() + static_cast<uint64_t>(i) * file_.header().stride();
      slots_.emplace_back(ffn, file_.pieces());
    }
  }

  const PackedFile& file() const { return file_; }
  std::span<const std::byte> memory() const { return memory_.bytes(); }
  const Traffic& traffic() const { return traffic_; }
  int32_t CountSlots() const {
    return static_cast<int32_t>(memory_.bytes().size() / file_.header().stride());
  }

  void Request(int64_t layer, int64_t tokens, std::span<const ExpertNeed> needs) {
    Abandon();
    if (layer <= layer_) policy_.AdvanceTokens(tokens);  // a new step
    layer_ = layer;
    needs_ = needs;
    slot_of_need_.assign(needs.size(), nullptr);
    // All that can be here together are pinned before the first is let in, so that it evicts none of them.
    const size_t count = std::min(needs.size(), slots_.size());
    for (size_t i = 0; i < count; ++i) active_.push_back(KeyOf(i));
    policy_.Pin(active_);
    for (admitted_ = 0; admitted_ < count; ++admitted_) Admit(admitted_);
  }

  bool Ready(size_t i) const {
    const Slot* const slot = slot_of_need_[i];
    return slot != nullptr && slot->read.done();
  }

  const SlicedFfn& Wait(size_t i) {
    CHECK(slot_of_need_[i] != nullptr, "need {} has no slot: those before it are not released", i);
    Slot& slot = *slot_of_need_[i];
    if (!slot.read.done()) {
      const auto start = std::chrono::steady_clock::now();
      reader_.Wait(slot.read);
      traffic_.seconds_waited +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    } else {
      reader_.Wait(slot.read);  // throws what went wrong
    }
    return slot.ffn;
  }

  void Release(size_t i) {
    const auto place = std::ranges::find(active_, KeyOf(i));
    CHECK(place != active_.end(), "need {} is not here", i);
    *place = active_.back();
    active_.pop_back();
    if (admitted_ == needs_.size()) return;  // nobody waits for the slot: unpinned with the next request
    active_.push_back(KeyOf(admitted_));
    policy_.Pin(active_);
    Admit(admitted_++);
  }

 private:
  struct Slot {
    Slot(const SlicedFfn& the_ffn, int64_t pieces) : ffn(the_ffn), read(pieces) {}

    SlicedFfn ffn;
    ExpertRead read;
  };

  CacheKey KeyOf(size_t need) const { return first_key_[static_cast<size_t>(layer_)] + needs_[need].expert; }

  // Finds need i, which is pinned, its slot; a slot is free or can be evicted.
  void Admit(size_t i) {
    const CacheKey key = KeyOf(i);
    const CachePolicy::Outcome outcome = policy_.Touch(key, needs_[i].tokens);
    CHECK(outcome.resident, "need {}: every slot is pinned", i);
    Slot*& slot = slot_of_key_[static_cast<size_t>(key)];
    ++(outcome.hit ? traffic_.hits : traffic_.misses);
    if (!outcome.hit) {
      slot = outcome.evicted ? std::exchange(slot_of_key_[static_cast<size_t>(*outcome.evicted)], nullptr)
                             : &slots_[used_slots_++];
    }
    if (!outcome.hit || slot->read.failed()) {
      reader_.Start(slot->read, key, const_cast<std::byte*>(slot->ffn.data));
      traffic_.bytes_read += file_.header().stride();
    }
    slot_of_need_[i] = slot;
  }

  // Slots of a request that was given up (an exception came between) may still be written.
  void Abandon() {
    if (active_.empty()) return;
    for (const CacheKey key : active_) {
      Slot* const slot = slot_of_key_[static_cast<size_t>(key)];
      if (slot == nullptr) continue;
      try {
        reader_.Wait(slot->read);
      } catch (const Error&) {  // read again when it is wanted again
      }
    }
    active_.clear();
  }

  PackedFile file_;
  HugePageBuffer memory_;
  CachePolicy policy_;
  std::deque<Slot> slots_;
  size_t used_slots_ = 0;
  std::vector<Slot*> slot_of_key_;   // null: not in memory
  std::vector<CacheKey> first_key_;  // [layers]
  Traffic traffic_;

  // The current request.
  int64_t layer_ = -1;
  std::span<const ExpertNeed> needs_;
  size_t admitted_ = 0;              // needs [0, admitted_) have or had a slot
  std::vector<Slot*> slot_of_need_;  // null: not admitted yet
  std::vector<CacheKey> active_;     // admitted and not released

  ExpertReader reader_;  // goes first: it writes to slots_
};

HostExperts::HostExperts(ExpertLayers layers) : layers_(std::move(layers)) {}

HostExperts::HostExperts(ExpertLayers layers, PackedFile file, HugePageBuffer slots,
                         const ExpertReader::Options& options)
    : layers_(std::move(layers)),
      cache_(std::make_unique<Cache>(layers_, std::move(file), std::move(slots), options)) {}

HostExperts::~HostExperts() = default;

int64_t HostExperts::num_slots() const { return cache_ ? cache_->CountSlots() : 0; }

const PackedFile* HostExperts::file() const { return cache_ ? &cache_->file() : nullptr; }

std::vector<std::span<const std::byte>> HostExperts::memory() const {
  if (cache_) return {cache_->memory()};
  std::vector<std::span<const std::byte>> experts;
  for (const std::span<const SlicedFfn> layer : layers_) {
    for (const SlicedFfn& expert : layer) experts.emplace_back(expert.data, expert.bytes());
  }
  std::sort(experts.begin(), experts.end(), [](auto a, auto b) { return a.data() < b.data(); });
  std::vector<std::span<const std::byte>> runs;
  for (const std::span<const std::byte> expert : experts) {
    if (!runs.empty() && runs.back().data() + runs.back().size() == expert.data()) {
      runs.back() = {runs.back().data(), runs.back().size() + expert.size()};
    } else {
      runs.push_back(expert);
    }
  }
  return runs;
}

HostExperts::Traffic HostExperts::traffic() const { return cache_ ? cache_->traffic() : Traffic(); }

void HostExperts::RequestFromFile(int64_t layer, int64_t tokens) { cache_->Request(layer, tokens, needs_); }

bool HostExperts::ReadyFromFile(size_t i) const { return cache_->Ready(i); }

const SlicedFfn& HostExperts::WaitForFile(size_t i) { return cache_->Wait(i); }

void HostExperts::ReleaseToFile(size_t i) { cache_->Release(i); }

}  // namespace fiddler
