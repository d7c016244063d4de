#include "sim/virtual_run.h"

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "experts/policy.h"
#include "experts/residency.h"
#include "plan/layer_plan.h"
#include "sim/layer_ceiling.h"

namespace fiddler {
namespace {

constexpr double kGiga = 1e9;

class VirtualEngine {
 public:
  VirtualEngine(const SimulatedModel& model, const HardwareProfile& hardware, std::string_view policy,
                int64_t num_slots, TokenRouting& routing, bool overlap)
      : model_(model),
        hardware_(hardware),
        routing_(routing),
        overlap_(overlap),
        cost_(MakeCostModel(hardware, model.slice)),
        policy_(Make(model, policy, num_slots, cost_)),
        residency_(policy_->Slots()),
        ceiling_(static_cast<size_t>(model.num_experts)),
        tokens_of_(static_cast<size_t>(model.num_experts)) {
    const RoutingGeometry geometry = routing.geometry();
    int64_t moe_layers = 0;
    for (const SimulatedModel::Layer& layer : model.layers) moe_layers += layer.is_moe ? 1 : 0;
    CHECK(geometry == (RoutingGeometry{moe_layers, model.num_experts, model.top_k}),
          "routing of {} layers, {} of {} experts", geometry.num_layers, geometry.top_k,
          geometry.num_experts);
    token_.resize(static_cast<size_t>(moe_layers * model.top_k));
    Place();
  }

  // A step of new_tokens for each of the sequences, which had `position` before.
  struct Step {
    int64_t first_sequence = 0;
    int64_t sequences = 1;
    int64_t new_tokens = 1;
    int64_t position = 0;
    bool needs_logits = true;
    bool is_one_text = false;  // its sequences draw their tokens from the first one's text
  };

  void Run(const Step& step, VirtualPhase& phase) {
    const int64_t tokens = step.sequences * step.new_tokens;
    Route(step, tokens);
    residency_.AdvanceTokens(tokens);
    int64_t moe_layer = 0;
    for (size_t layer = 0; layer < model_.layers.size(); ++layer) {
      Dense(model_.layers[layer], step, phase);
      if (model_.layers[layer].is_moe) Experts(static_cast<int64_t>(layer), moe_layer++, tokens, phase);
    }
    if (step.needs_logits)
      Spend(model_.head_bytes, static_cast<double>(step.sequences) * model_.head_flops, phase);
    ++phase.steps;
  }

 private:
  static std::unique_ptr<Policy> Make(const SimulatedModel& model, std::string_view name, int64_t num_slots,
                                      const CostModel& cost) {
    const auto is_moe = std::make_unique<bool[]>(model.layers.size());
    for (size_t i = 0; i < model.layers.size(); ++i) is_moe[i] = model.layers[i].is_moe;
    return MakePolicy(name,
                      {.num_layers = std::ssize(model.layers),
                       .is_moe = {is_moe.get(), model.layers.size()},
                       .num_experts = model.num_experts,
                       .num_slices = model.num_slices,
                       .num_slots = num_slots},
                      cost);
  }

  void Place() {
    const std::vector<int64_t> known = routing_.Popularity();  // of MoE layers only
    std::vector<int64_t> popularity;
    if (!known.empty()) {
      auto from = known.begin();
      for (const SimulatedModel::Layer& layer : model_.layers) {
        for (int64_t expert = 0; expert < model_.num_experts; ++expert)
          popularity.push_back(layer.is_moe ? *from++ : 0);
      }
    }
    for (const ExpertId id : policy_->Placement(popularity)) {
      while (residency_.Resident(id) < model_.num_slices && residency_.Admit(id)) continue;
    }
  }

  // experts_: [num_moe_layers, tokens, top_k]
  void Route(const Step& step, int64_t tokens) {
    const int64_t top_k = model_.top_k;
    const int64_t layers = routing_.geometry().num_layers;
    experts_.resize(static_cast<size_t>(layers * tokens * top_k));
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t sequence = step.is_one_text ? 0 : token / step.new_tokens;
      routing_.NextToken(step.first_sequence + sequence, token_);
      for (int64_t layer = 0; layer < layers; ++layer)
        std::copy_n(token_.begin() + layer * top_k, top_k,
                    experts_.begin() + (layer * tokens + token) * top_k);
    }
  }

  // Time of work that every token passes, on the side that has the dense weights.
  void Spend(double bytes, double flops, VirtualPhase& phase) {
    const bool gpu = hardware_.has_gpu();
    const double gbps = gpu ? hardware_.gpu_memory_gbps : hardware_.cpu_read_gbps;
    const double gflops = gpu ? hardware_.gpu_gflops : hardware_.cpu_gflops;
    const double seconds = std::max(bytes / (gbps * kGiga), flops / (gflops * kGiga)) +
                           (gpu ? hardware_.launch_seconds : hardware_.handoff_seconds);
    (gpu ? phase.busy.gpu : phase.busy.cpu) += seconds;
    (gpu ? phase.gpu_bytes : phase.cpu_bytes) += bytes;
    if (!gpu) phase.busy.dram += bytes / (hardware_.dram_gbps * kGiga);
    phase.seconds += seconds;
    phase.ceiling_seconds += seconds;
  }

  // Keys and values are read once by each sequence, however many of its tokens look at them.
  void Dense(const SimulatedModel::Layer& layer, const Step& step, VirtualPhase& phase) {
    double looks = 0;  // positions, of all tokens of a sequence
    for (int64_t i = 0; i < step.new_tokens; ++i)
      looks += static_cast<double>(Seen(layer, step.position + i));
    const int64_t last = step.position + step.new_tokens;
    const double reads =
        static_cast<double>(layer.window > 0 ? std::min(last, layer.window + step.new_tokens - 1) : last);
    const auto sequences = static_cast<double>(step.sequences);
    const double tokens = sequences * static_cast<double>(step.new_tokens);
    Spend(layer.dense_bytes + sequences * reads * model_.kv_bytes_per_position,
          tokens * layer.dense_flops + sequences * looks * model_.attention_flops_per_position, phase);
  }

  static int64_t Seen(const SimulatedModel::Layer& layer, int64_t position) {
    return layer.window > 0 ? std::min(position + 1, layer.window) : position + 1;
  }

  void Experts(int64_t layer, int64_t moe_layer, int64_t tokens, VirtualPhase& phase) {
    std::fill(tokens_of_.begin(), tokens_of_.end(), 0);
    const int64_t chosen = tokens * model_.top_k;
    for (int64_t i = 0; i < chosen; ++i) ++tokens_of_[experts_[static_cast<size_t>(moe_layer * chosen + i)]];
    work_.clear();
    pins_.clear();
    loads_.clear();
    for (size_t expert = 0; expert < tokens_of_.size(); ++expert) {
      if (tokens_of_[expert] == 0) continue;
      const ExpertId id = residency_.IdOf(layer, static_cast<int64_t>(expert));
      const int64_t resident = residency_.Resident(id);
      work_.push_back({static_cast<int32_t>(expert), tokens_of_[expert]});
      pins_.push_back(id);
      loads_.push_back(
          {.tokens = tokens_of_[expert], .resident = resident, .missing = model_.num_slices - resident});
      phase.hits += static_cast<double>(resident) / static_cast<double>(model_.num_slices);
      ++phase.accesses;
    }
    residency_.Pin(pins_);
    for (size_t i = 0; i < work_.size(); ++i) residency_.Want(pins_[i], work_[i].tokens);

    const LayerDecision decision = policy_->Decide(layer, work_, residency_);
    Account(decision, phase);
    phase.ceiling_seconds += ceiling_.Seconds(loads_, cost_);
    for (size_t i = 0; i < work_.size(); ++i) {
      for (int64_t slice = 0; slice < decision.shares[i].fetch; ++slice)
        if (!residency_.Admit(pins_[i])) break;
    }
  }

  void Account(const LayerDecision& decision, VirtualPhase& phase) {
    int64_t cpu_slices = 0;
    int64_t gpu_slices = 0;
    int64_t copies = decision.idle_copies;
    double gpu_work = 0;
    for (size_t i = 0; i < work_.size(); ++i) {
      const ExpertShare& share = decision.shares[i];
      const int64_t on_gpu = loads_[i].resident - share.cpu_resident + share.fetch;
      cpu_slices += model_.num_slices - on_gpu;
      gpu_slices += on_gpu;
      copies += share.fetch;
      gpu_work += static_cast<double>(on_gpu) * cost_.gpu.Seconds(static_cast<double>(loads_[i].tokens));
    }
    if (gpu_slices > 0) gpu_work += cost_.gpu_start;
    const double link = static_cast<double>(copies) * cost_.link_slice_seconds;
    phase.busy.cpu += decision.times.cpu_seconds;
    phase.busy.gpu += gpu_work;
    phase.busy.link += link;
    phase.busy.dram += decision.times.dram_seconds;
    phase.cpu_bytes += static_cast<double>(cpu_slices) * model_.slice.bytes;
    phase.gpu_bytes += static_cast<double>(gpu_slices) * model_.slice.bytes;
    phase.link_bytes += static_cast<double>(copies) * model_.slice.bytes;
    phase.seconds += overlap_ ? decision.times.seconds() : decision.times.cpu_seconds + link + gpu_work;
  }

  const SimulatedModel& model_;
  const HardwareProfile& hardware_;
  TokenRouting& routing_;
  const bool overlap_;
  const CostModel cost_;
  const std::unique_ptr<Policy> policy_;
  Residency residency_;
  LayerCeiling ceiling_;
  std::vector<uint16_t> token_;     // [num_moe_layers, top_k]
  std::vector<uint16_t> experts_;   // of the step
  std::vector<int64_t> tokens_of_;  // [num_experts], of the layer
  std::vector<ExpertWork> work_;
  std::vector<ExpertId> pins_;
  std::vector<ExpertLoad> loads_;
};

}  // namespace

VirtualResult RunVirtually(const SimulatedModel& model, const HardwareProfile& hardware,
                           std::string_view policy, int64_t num_slots, TokenRouting& routing,
                           const VirtualScenario& scenario) {
  CHECK(scenario.prompt_tokens >= 1 && scenario.generated_tokens >= 0 && scenario.sequences >= 1 &&
            scenario.chunk_tokens >= 1,
        "{} + {} tokens, {} sequences, {} a chunk", scenario.prompt_tokens, scenario.generated_tokens,
        scenario.sequences, scenario.chunk_tokens);
  VirtualEngine engine(model, hardware, policy, num_slots, routing, scenario.overlap);
  VirtualResult result;
  const int64_t prompts = scenario.is_beam ? 1 : scenario.sequences;
  for (int64_t sequence = 0; sequence < prompts; ++sequence) {
    for (int64_t done = 0; done < scenario.prompt_tokens;) {
      const int64_t chunk = std::min(scenario.chunk_tokens, scenario.prompt_tokens - done);
      const bool is_last = done + chunk == scenario.prompt_tokens;
      engine.Run({.first_sequence = sequence, .new_tokens = chunk, .position = done, .needs_logits = is_last},
                 result.prompt);
      done += chunk;
    }
  }
  result.ttft_seconds = result.prompt.seconds;
  for (int64_t token = 1; token < scenario.generated_tokens; ++token) {
    engine.Run({.sequences = scenario.sequences,
                .position = scenario.prompt_tokens + token - 1,
                .is_one_text = scenario.is_beam},
               result.generation);
  }
  return result;
}

}  // namespace fiddler
