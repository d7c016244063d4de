// How often the routers of a model chose each expert on some text: what experts are placed by before anything
// else is known. Plain data.
//
// Its file is sealed JSON (base/sealed_json.h), kind "fiddler expert popularity", version 1:
//   {"family": "mixtral", "layers": 4, "experts": 8, "top_k": 2, "text": "tales.txt", "tokens": 512,
//    "counts": [[131, ...], ...]}    [layers][experts], MoE layers only
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fiddler {

struct ExpertPopularity {
  std::string family;  // model_type of config.json
  int64_t layers = 0;  // MoE layers, counted from 0 in their order
  int64_t experts = 0;
  int64_t top_k = 0;
  std::string text;  // what was read, for people
  int64_t tokens = 0;
  std::vector<int64_t> counts;  // [layers, experts]; those of a layer add up to tokens * top_k

  int64_t Count(int64_t layer, int64_t expert) const {
    return counts[static_cast<size_t>(layer * experts + expert)];
  }
  std::span<const int64_t> Layer(int64_t layer) const {
    return std::span(counts).subspan(static_cast<size_t>(layer * experts), static_cast<size_t>(experts));
  }

  bool operator==(const ExpertPopularity&) const = default;
};

// The share of a layer's choices that go to its `top` most popular experts, mean over the layers: the hits of
// a cache that holds just those. 0 if there are no tokens.
double TopShare(const ExpertPopularity& popularity, int64_t top);

// The bytes of the file.
std::string SerializePopularity(const ExpertPopularity& popularity);
// Throws Error naming source, field, expected and got, also for counts that do not add up.
ExpertPopularity ParsePopularity(std::string_view text, std::string_view source);

// All or nothing (base/file.h). Throws Error.
void WritePopularity(const ExpertPopularity& popularity, const std::filesystem::path& path);
ExpertPopularity ReadPopularity(const std::filesystem::path& path);

}  // namespace fiddler
