// The routed experts of a layer on a device and the CPU together.
//
//   device, compute stream          host                              device, copy stream
//   route; x and routing -> host
//   post flag               ----->  group tokens, decide (Policy)
//                                   queue all of the following, then
//   resident slices                 the CPU's slices,                 fetched slices -> slots
//   fetched slices, as they come    and the flag that they are done
//   wait for flag           <-----
//   add the CPU's part
//
// Sums: the device adds its slices in the order they come, then the CPU's part; so results are equal to the
// host's up to the order of float additions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/device_setup.h"
#include "engine/device_weights.h"
#include "engine/ffn.h"
#include "engine/forward.h"
#include "engine/parallel_ops.h"
#include "engine/sliced_ffn.h"
#include "experts/expert_store.h"
#include "experts/host_experts.h"
#include "experts/policy.h"

namespace fiddler {

class HybridExperts {
 public:
  // Device memory for the routing of a batch and the CPU's part.
  struct Buffers {
    FiddlerAddress router_logits = 0;  // [tokens, num_experts]
    FiddlerAddress experts = 0;        // int32 [tokens, top_k]
    FiddlerAddress weights = 0;        // [tokens, top_k]
    FiddlerAddress shared_gate = 0;    // [tokens]
    FiddlerAddress cpu_part = 0;       // [tokens, hidden]
  };
  static Buffers TakeBuffers(const ModelSpec& spec, int64_t batch_tokens, DeviceArena& arena);
  // Pinned host memory.
  static uint64_t MailboxBytes(const ModelSpec& spec, int64_t batch_tokens);

  // All references must outlive this object.
  HybridExperts(const PackedModel& model, const ParallelOps& ops, const ForwardLimits& limits,
                Workspace& workspace, Device& device, FiddlerStream stream, const Buffers& buffers,
                ExpertStore& store, Policy& policy);

  // Queues the router and what tells the host of it. x: normed hidden states [tokens, hidden]; may be part of
  // a captured segment.
  void QueueRouting(const DeviceLayer& layer, int64_t tokens, FiddlerAddress x);

  // Waits for the routing, decides, queues the device's share and computes the CPU's: out [tokens, hidden]
  // will be the sum of the experts (and the shared one) of each token.
  void Run(int64_t index, const DeviceLayer& layer, int64_t tokens, FiddlerAddress x, FiddlerAddress out);

  void Observe(RoutingObserver observer) { observer_ = std::move(observer); }
  void ObserveLoads(const LoadObserver& observer) { load_observer_ = observer; }
  const ExpertTraffic& traffic() const { return traffic_; }

 private:
  static constexpr size_t kIdle = SIZE_MAX;

  void Group(int64_t index, int64_t tokens);
  void ObserveLoads(int64_t index);
  void QueueResident(int64_t index, const DeviceLayer& layer, int64_t tokens, FiddlerAddress x,
                     FiddlerAddress out);
  // Which experts' weights the layer needs from the host: needs_, those with most tokens first.
  void FindNeeds(int64_t idle_copies);
  // Runs the needs on both sides, as they come.
  void RunNeeds(int64_t index, int64_t tokens, FiddlerAddress x, FiddlerAddress out);
  int64_t FirstOnCpu(size_t group) const;  // slice of a group's expert; the CPU has that and all behind it
  bool CpuHasPart() const;
  // The device adds the CPU's part once that is there.
  void QueueCpuPart(int64_t tokens, FiddlerAddress out);
  void QueueFetch(size_t need, FiddlerAddress x, FiddlerAddress out);
  void QueueIdleCopies(size_t need);
  void QueueSlices(const SlicedFfn& geometry, FiddlerAddress x, FiddlerAddress out);
  // Some slices of a group's expert become entries_.
  void AddEntries(size_t group, std::span<const ExpertStore::Run> runs);
  // y [tokens, router.rows]: products in float32, whatever the weights' format.
  void QueueScores(int64_t tokens, FiddlerAddress x, const FiddlerMatrix& router, FiddlerAddress y);
  void AddPass(size_t need);  // the CPU's slices, if there are any

  const ModelSpec& spec_;
  const PackedWeights& weights_;
  const ParallelOps& ops_;
  Device& device_;
  const FiddlerStream stream_;
  const Buffers buffers_;
  HostExperts& host_experts_;
  ExpertStore& store_;
  Policy& policy_;
  const int64_t num_slices_;  // of an expert
  RoutingObserver observer_;
  LoadObserver load_observer_;
  ExpertTraffic traffic_;

  PinnedBuffer mailbox_;
  float* x_;          // [batch_tokens, hidden]
  float* cpu_part_;   // [batch_tokens, hidden]
  int32_t* chosen_;   // [batch_tokens, top_k]
  float* weight_;     // [batch_tokens, top_k]
  uint32_t* routed_;  // flags
  uint32_t* computed_;

  // Of the layer at hand.
  ExpertGroups groups_;
  std::vector<float> slot_weights_;  // [assignments], by slot
  std::vector<ExpertWork> work_;     // one for each group
  std::vector<ExpertId> ids_;        // the same
  std::vector<int64_t> resident_;    // the same: slices in slots when the decision was made
  std::vector<ExpertShare> shares_;  // the same
  std::vector<ExpertNeed> needs_;
  std::vector<size_t> group_of_need_;      // or kIdle: only copied
  std::vector<const SlicedFfn*> experts_;  // of the needs that are there
  int64_t idle_copies_ = 0;                // still to be made
  bool cpu_part_queued_ = false;           // the device waits, or will, for computed_
  std::vector<ExpertLoad> loads_;          // for the observer
  std::vector<ExpertStore::Run> runs_;
  std::vector<FiddlerSlices> entries_;
  SlicedFfnRunner runner_;
  std::vector<SlicedFfn> parts_;  // the CPU's slices of each need
  std::vector<FfnPass> passes_;
};

}  // namespace fiddler
