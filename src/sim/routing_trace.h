// A record of which experts a model's routers chose: for every step (one forward pass), MoE layer and token
// the top_k experts. Measured by the engine or made up (sim/routing_generator.h); what caches and schedules
// are replayed against.
//
// Its file, version 1, little endian, without padding:
//   char[8]  magic         "FIDROUTE"
//   u32      version       1
//   u32      num_layers    MoE layers, 1 to 65536
//   u32      num_experts   1 to 65536
//   u32      top_k         1 to num_experts
//   u64      num_steps
//   u64      num_tokens    of all steps
//   u32      tokens[num_steps]             at least 1 each; together num_tokens
//   u16      experts[num_tokens * num_layers * top_k]
//                          by step, layer, token, rank; below num_experts, those of a token all different
//   u64      checksum      FNV-1a, 64 bits, of all bytes before it
// 16 bits an id: 100,000 tokens of a model with 48 layers and 8 experts a token are 77 MB.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fiddler {

struct RoutingGeometry {
  int64_t num_layers = 0;  // MoE layers
  int64_t num_experts = 0;
  int64_t top_k = 0;

  bool operator==(const RoutingGeometry&) const = default;
};

// Not thread-safe while steps are added.
class RoutingTrace {
 public:
  // CHECKs that the geometry is within the limits of the file.
  explicit RoutingTrace(const RoutingGeometry& geometry);

  // experts: [num_layers, tokens, top_k], at least one token, below num_experts, those of a token all
  // different.
  void AddStep(int64_t tokens, std::span<const uint16_t> experts);

  const RoutingGeometry& geometry() const { return geometry_; }
  int64_t num_steps() const { return static_cast<int64_t>(first_token_.size()) - 1; }
  int64_t num_tokens() const { return first_token_.back(); }
  int64_t tokens(int64_t step) const {
    return first_token_[static_cast<size_t>(step) + 1] - first_token_[static_cast<size_t>(step)];
  }
  // [tokens(step), top_k], in the order of the router: highest weight first.
  std::span<const uint16_t> Experts(int64_t step, int64_t layer) const;

  bool operator==(const RoutingTrace&) const = default;

 private:
  friend RoutingTrace ParseRoutingTrace(std::string_view bytes, std::string_view source);

  RoutingGeometry geometry_;
  std::vector<int64_t> first_token_ = {0};  // [num_steps + 1]
  std::vector<uint16_t> experts_;           // by step, layer, token, rank
};

// The bytes of the file.
std::string SerializeRoutingTrace(const RoutingTrace& trace);
// `source` (a file name) is for errors. Throws Error for anything but what SerializeRoutingTrace makes.
RoutingTrace ParseRoutingTrace(std::string_view bytes, std::string_view source);

// All or nothing (base/file.h). Throws Error.
void WriteRoutingTrace(const RoutingTrace& trace, const std::filesystem::path& path);
// Throws Error, also for files above 4 GiB.
RoutingTrace ReadRoutingTrace(const std::filesystem::path& path);

}  // namespace fiddler
