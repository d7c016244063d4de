#include "engine/hybrid_experts.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace fiddler {
namespace {

// Nothing a layer does takes so long, on any device; then the flag will never come.
constexpr double kWatchdogSeconds = 60;

constexpr uint64_t kLine = 64;  // what shares a cache line with a flag is slow to poll

uint64_t Lines(int64_t count, size_t element) {
  return (static_cast<uint64_t>(count) * element + kLine - 1) / kLine * kLine;
}

// The slices of an expert from `first` on, as an FFN of their own.
SlicedFfn SlicesFrom(const SlicedFfn& ffn, int64_t first) {
  SlicedFfn part = ffn;
  part.data += first * ffn.slice_bytes();
  part.intermediate -= first * ffn.slice_neurons;
  return part;
}

}  // namespace

HybridExperts::Buffers HybridExperts::TakeBuffers(const ModelSpec& spec, int64_t batch_tokens,
                                                  DeviceArena& arena) {
  return {.router_logits = arena.Array<float>(batch_tokens * spec.moe.num_experts),
          .experts = arena.Array<int32_t>(batch_tokens * spec.moe.top_k),
          .weights = arena.Array<float>(batch_tokens * spec.moe.top_k),
          .shared_gate = arena.Array<float>(batch_tokens),
          .cpu_part = arena.Array<float>(batch_tokens * spec.hidden)};
}

uint64_t HybridExperts::MailboxBytes(const ModelSpec& spec, int64_t batch_tokens) {
  return 2 * Lines(batch_tokens * spec.hidden, sizeof(float)) +
         2 * Lines(batch_tokens * spec.moe.top_k, sizeof(float)) + 2 * kLine;
}

HybridExperts::HybridExperts(const PackedModel& model, const ParallelOps& ops, const ForwardLimits& limits,
                             Workspace& workspace, Device& device, FiddlerStream stream,
                             const Buffers& buffers, ExpertStore& store, Policy& policy)
    : spec_(model.spec),
      weights_(model.weights),
      ops_(ops),
      device_(device),
      stream_(stream),
      buffers_(buffers),
      host_experts_(*model.host_experts),
      store_(store),
      policy_(policy),
      num_slices_(store.residency().options().num_slices),
      mailbox_(device, MailboxBytes(model.spec, limits.batch_tokens), "mailbox"),
      groups_(limits.batch_tokens * spec_.moe.top_k, spec_.moe.num_experts),
      slot_weights_(static_cast<size_t>(limits.batch_tokens * spec_.moe.top_k)),
      runner_(FfnLimitsOf(model, limits.batch_tokens), ops, workspace) {
  std::byte* next = mailbox_.data();
  const auto take = [&](int64_t count, size_t element) {
    return std::exchange(next, next + Lines(count, element));
  };
  x_ = reinterpret_cast<float*>(take(limits.batch_tokens * spec_.hidden, sizeof(float)));
  cpu_part_ = reinterpret_cast<float*>(take(limits.batch_tokens * spec_.hidden, sizeof(float)));
  chosen_ = reinterpret_cast<int32_t*>(take(limits.batch_tokens * spec_.moe.top_k, sizeof(int32_t)));
  weight_ = reinterpret_cast<float*>(take(limits.batch_tokens * spec_.moe.top_k, sizeof(float)));
  routed_ = reinterpret_cast<uint32_t*>(take(1, sizeof(uint32_t)));
  computed_ = reinterpret_cast<uint32_t*>(take(1, sizeof(uint32_t)));
  *routed_ = *computed_ = 0;

  const auto num_experts = static_cast<size_t>(spec_.moe.num_experts);
  work_.reserve(num_experts);
  ids_.reserve(num_experts);
  resident_.reserve(num_experts);
  shares_.reserve(num_experts);
  needs_.reserve(num_experts);
  group_of_need_.reserve(num_experts);
  experts_.reserve(num_experts);
  parts_.reserve(num_experts);
  passes_.reserve(num_experts);
  const auto num_slots = static_cast<size_t>(store.residency().options().num_slots);
  runs_.reserve(num_slots + ExpertStore::kRingSlots);
  entries_.reserve(num_slots + ExpertStore::kRingSlots + 1);
}

void HybridExperts::QueueRouting(const DeviceLayer& layer, int64_t tokens, FiddlerAddress x) {
  const auto count = static_cast<uint64_t>(tokens);
  const uint64_t assignments = count * static_cast<uint64_t>(spec_.moe.top_k);
  QueueScores(tokens, x, layer.router, buffers_.router_logits);
  device_.Route(stream_, {.tokens = tokens,
                          .num_experts = spec_.moe.num_experts,
                          .top_k = spec_.moe.top_k,
                          .logits = buffers_.router_logits,
                          .experts = buffers_.experts,
                          .weights = buffers_.weights,
                          .renormalize = spec_.moe.renormalize,
                          .padding = 0});
  device_.CopyOut(stream_, chosen_, buffers_.experts, assignments * sizeof(int32_t));
  device_.CopyOut(stream_, weight_, buffers_.weights, assignments * sizeof(float));
  device_.CopyOut(stream_, x_, x, count * static_cast<uint64_t>(spec_.hidden) * sizeof(float));
  device_.Post(stream_, routed_);
}

void HybridExperts::Run(int64_t index, const DeviceLayer& layer, int64_t tokens, FiddlerAddress x,
                        FiddlerAddress out) {
  std::array<char, 40> what;  // on the stack: waiting allocates nothing
  const auto end = fmt::format_to_n(what.data(), what.size(), "layer {}, routing", index).out;
  device_.WaitFlag(routed_, kWatchdogSeconds, {what.data(), end});
  Group(index, tokens);
  Residency& residency = store_.residency();
  for (size_t i = 0; i < work_.size(); ++i) residency.Want(ids_[i], work_[i].tokens);
  store_.BeginLayer(ids_);
  if (load_observer_) ObserveLoads(index);
  const LayerDecision decision = policy_.Decide(index, work_, residency);
  shares_.assign(decision.shares.begin(), decision.shares.end());
  for (size_t i = 0; i < ids_.size(); ++i) {
    resident_.push_back(residency.Resident(ids_[i]));  // fetching changes it
    CHECK(shares_[i].fetch == 0 || shares_[i].cpu_resident == 0, "expert {}", ids_[i]);
  }

  device_.Clear(stream_, out, static_cast<uint64_t>(tokens * spec_.hidden) * sizeof(float));
  QueueResident(index, layer, tokens, x, out);
  FindNeeds(decision.idle_copies);
  cpu_part_queued_ = false;
  try {
    RunNeeds(index, tokens, x, out);
  } catch (const Error&) {
    if (cpu_part_queued_) device_.SetFlag(computed_);  // nobody shall wait for it for ever
    throw;
  }
  if (cpu_part_queued_) device_.SetFlag(computed_);
}

void HybridExperts::ObserveLoads(int64_t index) {
  loads_.clear();
  for (size_t i = 0; i < ids_.size(); ++i) {
    const int64_t resident = store_.residency().Resident(ids_[i]);
    loads_.push_back({.tokens = work_[i].tokens, .resident = resident, .missing = num_slices_ - resident});
  }
  load_observer_(index, loads_);
}

int64_t HybridExperts::FirstOnCpu(size_t group) const {
  return resident_[group] - shares_[group].cpu_resident + shares_[group].fetch;
}

bool HybridExperts::CpuHasPart() const {
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (FirstOnCpu(i) < num_slices_) return true;
  }
  return false;
}

void HybridExperts::QueueCpuPart(int64_t tokens, FiddlerAddress out) {
  const int64_t count = tokens * spec_.hidden;
  cpu_part_queued_ = true;
  device_.Await(stream_, computed_);
  device_.CopyIn(stream_, buffers_.cpu_part, cpu_part_, static_cast<uint64_t>(count) * sizeof(float));
  device_.Add(stream_, {.count = count, .x = buffers_.cpu_part, .y = out});
}

// From the routing of every token to the tokens of every expert.
void HybridExperts::Group(int64_t index, int64_t tokens) {
  const int64_t top_k = spec_.moe.top_k;
  const auto assignments = static_cast<size_t>(tokens * top_k);
  for (size_t i = 0; i < assignments; ++i) {
    if (chosen_[i] < 0 || chosen_[i] >= spec_.moe.num_experts) {
      throw Error("{}: layer {}: expected experts below {} from the router, got {}", device_.name(), index,
                  spec_.moe.num_experts, chosen_[i]);
    }
  }
  if (observer_) {
    observer_({.layer = index,
               .top_k = top_k,
               .experts = {chosen_, assignments},
               .weights = {weight_, assignments}});
  }
  groups_.Build({chosen_, assignments}, top_k);
  groups_.BySlot({weight_, assignments}, slot_weights_);
  work_.clear();
  ids_.clear();
  resident_.clear();
  for (const ExpertGroups::Group& group : groups_.groups()) {
    work_.push_back({.expert = group.expert, .tokens = group.tokens});
    ids_.push_back(store_.residency().IdOf(index, group.expert));
  }
}

void HybridExperts::QueueSlices(const SlicedFfn& geometry, FiddlerAddress x, FiddlerAddress out) {
  const auto rounding = static_cast<int32_t>(ops_.RoundingFor(geometry.format));
  device_.Ffn(stream_, {.hidden = geometry.hidden,
                        .slice_neurons = geometry.slice_neurons,
                        .slice_bytes = geometry.slice_bytes(),
                        .format = static_cast<int32_t>(geometry.format),
                        .rounding = rounding,
                        .x = x,
                        .out = out,
                        .entries = entries_.data(),
                        .num_entries = std::ssize(entries_)});
}

void HybridExperts::AddEntries(size_t i, std::span<const ExpertStore::Run> runs) {
  const ExpertGroups::Group& group = groups_.groups()[i];
  for (const ExpertStore::Run& run : runs) {
    entries_.push_back({.slice = run.slice,
                        .num_slices = run.num_slices,
                        .tokens = group.tokens,
                        .rows = groups_.token_of_slot() + group.first_slot,
                        .weights = slot_weights_.data() + group.first_slot,
                        .weights_on_device = 0});
  }
}

void HybridExperts::QueueScores(int64_t tokens, FiddlerAddress x, const FiddlerMatrix& router,
                                FiddlerAddress y) {
  device_.MatMul(stream_, {.tokens = tokens,
                           .x = x,
                           .row_index = 0,
                           .w = router,
                           .bias = 0,
                           .y = y,
                           .rounding = static_cast<int32_t>(Rounding::kNone),
                           .padding = 0});
}

void HybridExperts::QueueResident(int64_t index, const DeviceLayer& layer, int64_t tokens, FiddlerAddress x,
                                  FiddlerAddress out) {
  const PackedLayer& packed = weights_.layers[static_cast<size_t>(index)];
  if (layer.shared != 0) {
    QueueScores(tokens, x, layer.shared_router, buffers_.shared_gate);
    device_.Sigmoid(stream_, {.count = tokens, .x = buffers_.shared_gate});
    entries_.clear();
    entries_.push_back({.slice = layer.shared,
                        .num_slices = packed.shared.num_slices(),
                        .tokens = tokens,
                        .rows = nullptr,
                        .weights = nullptr,
                        .weights_on_device = buffers_.shared_gate});
    QueueSlices(packed.shared, x, out);
  }
  entries_.clear();
  for (size_t i = 0; i < ids_.size(); ++i) {
    const int64_t count = resident_[i] - shares_[i].cpu_resident;
    runs_.clear();
    store_.Resident(ids_[i], count, runs_);
    AddEntries(i, runs_);
    traffic_.resident += count;
  }
  if (!entries_.empty()) QueueSlices(packed.experts.front(), x, out);
}

void HybridExperts::FindNeeds(int64_t idle_copies) {
  needs_.clear();
  group_of_need_.clear();
  for (size_t i = 0; i < ids_.size(); ++i) {
    const bool all_there = resident_[i] == num_slices_ && shares_[i].cpu_resident == 0;
    if (!all_there) group_of_need_.push_back(i);
  }
  // What keeps the device longest comes first.
  std::sort(group_of_need_.begin(), group_of_need_.end(), [&](size_t a, size_t b) {
    return work_[a].tokens != work_[b].tokens ? work_[a].tokens > work_[b].tokens : a < b;
  });
  for (const size_t i : group_of_need_) {
    needs_.push_back({.expert = work_[i].expert, .tokens = work_[i].tokens});
  }
  // Copied although nobody wants them: experts of the layer that no token chose.
  idle_copies_ = idle_copies;
  traffic_.idle_copies += idle_copies;
  size_t next = 0;
  for (int32_t expert = 0; idle_copies > 0 && expert < spec_.moe.num_experts; ++expert) {
    while (next < work_.size() && work_[next].expert < expert) ++next;
    if (next < work_.size() && work_[next].expert == expert) continue;
    needs_.push_back({.expert = expert, .tokens = 1});
    group_of_need_.push_back(kIdle);
    idle_copies -= num_slices_;
  }
}

void HybridExperts::RunNeeds(int64_t index, int64_t tokens, FiddlerAddress x, FiddlerAddress out) {
  bool on_cpu = false;
  experts_.assign(needs_.size(), nullptr);
  host_experts_.Request(index, tokens, needs_);
  for (size_t begin = 0; begin < needs_.size();) {
    parts_.clear();
    passes_.clear();
    size_t end = begin;
    do {
      experts_[end] = &host_experts_.Wait(end);
      ++end;
    } while (end < needs_.size() && host_experts_.Ready(end));
    for (size_t need = begin; need < end; ++need) {
      if (group_of_need_[need] == kIdle) {
        QueueIdleCopies(need);
      } else {
        QueueFetch(need, x, out);
        AddPass(need);
      }
    }
    // Before the CPU begins, so that the device goes on as soon as the flag is there.
    if (end == needs_.size() && CpuHasPart()) QueueCpuPart(tokens, out);
    if (!passes_.empty()) {
      runner_.Run(passes_, tokens, x_, cpu_part_,
                  on_cpu ? SlicedFfnRunner::Out::kAddTo : SlicedFfnRunner::Out::kSet);
      on_cpu = true;
    }
    if (!host_experts_.in_memory()) store_.FinishCopies();
    for (; begin < end; ++begin) host_experts_.Release(begin);
  }
}

void HybridExperts::QueueFetch(size_t need, FiddlerAddress x, FiddlerAddress out) {
  const size_t i = group_of_need_[need];
  const int64_t end = resident_[i] + shares_[i].fetch;
  for (int64_t slice = resident_[i]; slice < end; slice += ExpertStore::kChunkSlices) {
    const int64_t count = std::min(ExpertStore::kChunkSlices, end - slice);
    const ExpertStore::Chunk chunk = store_.Fetch(ids_[i], *experts_[need], slice, count);
    entries_.clear();
    AddEntries(i, chunk.runs);
    QueueSlices(*experts_[need], x, out);
    store_.Done(chunk);
  }
  traffic_.fetched += shares_[i].fetch;
}

void HybridExperts::QueueIdleCopies(size_t need) {
  for (int64_t slice = 0; idle_copies_ > 0 && slice < num_slices_;) {
    const int64_t count = std::min({ExpertStore::kChunkSlices, num_slices_ - slice, idle_copies_});
    store_.FetchIdle(*experts_[need], slice, count);
    slice += count;
    idle_copies_ -= count;
  }
}

void HybridExperts::AddPass(size_t need) {
  const size_t i = group_of_need_[need];
  const int64_t first = FirstOnCpu(i);
  const int64_t count = num_slices_ - first;
  CHECK(count >= 0, "expert {}: slices from {} of {}", work_[i].expert, first, num_slices_);
  if (count == 0) return;
  const ExpertGroups::Group& group = groups_.groups()[i];
  parts_.push_back(SlicesFrom(*experts_[need], first));
  passes_.push_back({.ffn = &parts_.back(),
                     .tokens = group.tokens,
                     .token_index = groups_.token_of_slot() + group.first_slot,
                     .weights = slot_weights_.data() + group.first_slot});
  traffic_.cpu += count;
}

}  // namespace fiddler
