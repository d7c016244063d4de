#include "experts/policy.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"
#include "experts/policy_base.h"

namespace fiddler {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"balanced", "fiddler",       "expert-cache",
                                                    "stream",   "static-layers", "cpu-experts"};

// Looks at one expert at a time, by a rule.
class RulePolicy : public PolicyBase {
 public:
  LayerDecision Decide(int64_t layer, std::span<const ExpertWork> work, const Residency& residency) final {
    const std::span<const ExpertLoad> loads = Loads(layer, work, residency);
    int64_t copies = 0;
    for (size_t i = 0; i < loads.size(); ++i) {
      shares_[i].fetch = cost().has_gpu && Fetches(loads[i]) ? loads[i].missing : 0;
      copies += shares_[i].fetch;
    }
    const std::span<const ExpertShare> shares(shares_.data(), loads.size());
    LayerDecision decision = {.shares = shares, .times = planner().Predict(loads, shares, cost())};
    decision.idle_copies = cost().has_gpu ? IdleCopies(layer, work, residency) : 0;
    if (decision.idle_copies > 0) {
      copies += decision.idle_copies;
      decision.times.gpu_seconds =
          std::max(decision.times.gpu_seconds, static_cast<double>(copies) * cost().link_slice_seconds);
      decision.times.dram_seconds += static_cast<double>(decision.idle_copies) * cost().dram_slice_seconds;
    }
    return decision;
  }

 protected:
  RulePolicy(std::string_view name, const PolicyGeometry& geometry, const CostModel& cost)
      : PolicyBase(name, geometry, cost), shares_(static_cast<size_t>(geometry.num_experts)) {}

  // What is missing of an expert is copied and computed on the GPU; else the CPU computes it.
  virtual bool Fetches(const ExpertLoad& load) const = 0;
  virtual int64_t IdleCopies(int64_t, std::span<const ExpertWork>, const Residency&) const { return 0; }

  int64_t Whole(int64_t slots) const { return num_slices() == 0 ? 0 : slots / num_slices(); }

 private:
  std::vector<ExpertShare> shares_;  // [num_experts]
};

class PopularExperts final : public RulePolicy {
 public:
  PopularExperts(const PolicyGeometry& geometry, const CostModel& cost)
      : RulePolicy("fiddler", geometry, cost) {}

  ResidencyOptions Slots() const override {
    return SlotOptions(Eviction::kNever, Whole(num_slots()) * num_slices());
  }
  std::vector<ExpertId> Placement(std::span<const int64_t> popularity) const override {
    std::vector<ExpertId> ids = ByPopularity(popularity);
    ids.resize(std::min(ids.size(), static_cast<size_t>(Whole(num_slots()))));
    return ids;
  }

 protected:
  // The paper's cpu_lat(s) > gpu_lat(s) + transfer, of each slice as of their sum.
  bool Fetches(const ExpertLoad& load) const override {
    const auto tokens = static_cast<double>(load.tokens);
    return cost().cpu.Seconds(tokens) > cost().gpu.Seconds(tokens) + cost().link_slice_seconds;
  }
};

class ExpertCache final : public RulePolicy {
 public:
  ExpertCache(const PolicyGeometry& geometry, const CostModel& cost)
      : RulePolicy("expert-cache", geometry, cost) {}

  ResidencyOptions Slots() const override {
    ResidencyOptions options = SlotOptions(Eviction::kLru, num_slots());
    options.per_layer = true;
    return options;
  }
  std::vector<ExpertId> Placement(std::span<const int64_t> popularity) const override {
    return MostPopularOfLayers(popularity, Whole(slots_per_layer()));
  }

 protected:
  bool Fetches(const ExpertLoad&) const override { return true; }
};

class Stream final : public RulePolicy {
 public:
  Stream(const PolicyGeometry& geometry, const CostModel& cost) : RulePolicy("stream", geometry, cost) {}

  ResidencyOptions Slots() const override { return SlotOptions(Eviction::kNever, 0); }
  std::vector<ExpertId> Placement(std::span<const int64_t>) const override { return {}; }

 protected:
  bool Fetches(const ExpertLoad&) const override { return true; }
  int64_t IdleCopies(int64_t layer, std::span<const ExpertWork> work,
                     const Residency& residency) const override {
    int64_t missing = 0;
    for (int64_t expert = 0; expert < num_experts(); ++expert)
      missing += num_slices() - residency.Resident(residency.IdOf(layer, expert));
    for (const ExpertWork& used : work)
      missing -= num_slices() - residency.Resident(residency.IdOf(layer, used.expert));
    return missing;
  }
};

class StaticLayers final : public RulePolicy {
 public:
  StaticLayers(const PolicyGeometry& geometry, const CostModel& cost)
      : RulePolicy("static-layers", geometry, cost) {}

  ResidencyOptions Slots() const override {
    return SlotOptions(Eviction::kNever, std::ssize(Placement({})) * num_slices());
  }
  std::vector<ExpertId> Placement(std::span<const int64_t>) const override {
    std::vector<ExpertId> ids;
    const int64_t experts = Whole(num_slots());
    for (int64_t layer = 0; layer < num_layers(); ++layer) {
      const auto first = static_cast<ExpertId>(layer * num_experts());
      if (num_experts() == 0 || !IsMoe(first)) continue;
      if (std::ssize(ids) + num_experts() > experts) break;
      for (int64_t i = 0; i < num_experts(); ++i) ids.push_back(first + static_cast<ExpertId>(i));
    }
    return ids;
  }

 protected:
  bool Fetches(const ExpertLoad&) const override { return false; }
};

class CpuExperts final : public RulePolicy {
 public:
  CpuExperts(const PolicyGeometry& geometry, const CostModel& cost)
      : RulePolicy("cpu-experts", geometry, cost) {}

  ResidencyOptions Slots() const override { return SlotOptions(Eviction::kNever, 0); }
  std::vector<ExpertId> Placement(std::span<const int64_t>) const override { return {}; }

 protected:
  bool Fetches(const ExpertLoad&) const override { return false; }
};

}  // namespace

std::span<const std::string_view> PolicyNames() { return kNames; }

std::unique_ptr<Policy> MakePolicy(std::string_view name, const PolicyGeometry& geometry,
                                   const CostModel& cost) {
  if (name == "balanced") return MakeBalanced(geometry, cost);
  if (name == "fiddler") return std::make_unique<PopularExperts>(geometry, cost);
  if (name == "expert-cache") return std::make_unique<ExpertCache>(geometry, cost);
  if (name == "stream") return std::make_unique<Stream>(geometry, cost);
  if (name == "static-layers") return std::make_unique<StaticLayers>(geometry, cost);
  if (name == "cpu-experts") return std::make_unique<CpuExperts>(geometry, cost);
  std::string names;
  for (const std::string_view known : kNames) names += (names.empty() ? "" : ", ") + std::string(known);
  throw Error("policy: expected one of {}, got '{}'", names, name);
}

}  // namespace fiddler
