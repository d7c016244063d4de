#include "experts/popularity.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/field_reader.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sealed_json.h"

namespace fiddler {
namespace {

constexpr JsonKind kKind = {.name = "fiddler expert popularity", .version = 1};
constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr int64_t kMaxLayers = 65536;  // of these two, far more than any model has
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxTokens = int64_t{1} << 46;  // times top_k a number that doubles hold exactly

void RequireLength(const Json& array, std::string_view where, int64_t length, std::string_view of) {
  if (!array.is_array()) throw Error("{}: expected an array of {}, got {}", where, of, Printable(array));
  if (static_cast<int64_t>(array.size()) != length) {
    throw Error("{}: expected {} {}, got {}", where, length, of, array.size());
  }
}

// Appends the counts of one layer.
void ReadLayer(const Json& layer, const std::string& where, ExpertPopularity& popularity) {
  RequireLength(layer, where, popularity.experts, "experts");
  int64_t left = popularity.tokens * popularity.top_k;
  for (size_t expert = 0; expert < layer.size(); ++expert) {
    const Json& count = layer[expert];
    const int64_t most = std::min(popularity.tokens, left);
    if (!count.is_number_integer() || count.get<double>() < 0 ||
        count.get<double>() > static_cast<double>(most)) {
      throw Error("{}[{}]: expected a count from 0 to {}, got {}", where, expert, most, Printable(count));
    }
    popularity.counts.push_back(count.get<int64_t>());
    left -= popularity.counts.back();
  }
  if (left != 0) {
    const int64_t all = popularity.tokens * popularity.top_k;
    throw Error("{}: expected counts that add up to tokens * top_k, {}, got {}", where, all, all - left);
  }
}

}  // namespace

double TopShare(const ExpertPopularity& popularity, int64_t top) {
  if (popularity.tokens == 0) return 0;
  double sum = 0;
  for (int64_t layer = 0; layer < popularity.layers; ++layer) {
    const std::span<const int64_t> counts = popularity.Layer(layer);
    std::vector<int64_t> sorted(counts.begin(), counts.end());
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    sum += static_cast<double>(
        std::accumulate(sorted.begin(), sorted.begin() + std::min(top, popularity.experts), int64_t{0}));
  }
  const double choices = static_cast<double>(popularity.tokens) * static_cast<double>(popularity.top_k);
  return sum / choices / static_cast<double>(popularity.layers);
}

std::string SerializePopularity(const ExpertPopularity& popularity) {
  Json counts = Json::array();
  for (int64_t layer = 0; layer < popularity.layers; ++layer) counts.push_back(Json(popularity.Layer(layer)));
  return SealJson(kKind, {{"family", popularity.family},
                          {"layers", popularity.layers},
                          {"experts", popularity.experts},
                          {"top_k", popularity.top_k},
                          {"text", popularity.text},
                          {"tokens", popularity.tokens},
                          {"counts", std::move(counts)}});
}

ExpertPopularity ParsePopularity(std::string_view text, std::string_view source) {
  const Json json = UnsealJson(kKind, text, source);
  FieldReader fields(json, source);
  ExpertPopularity popularity;
  popularity.family = fields.String("family");
  popularity.layers = fields.Integer("layers", 1, kMaxLayers);
  popularity.experts = fields.Integer("experts", 1, kMaxExperts);
  popularity.top_k = fields.Integer("top_k", 1, popularity.experts);
  popularity.text = fields.String("text");
  popularity.tokens = fields.Integer("tokens", 0, kMaxTokens);
  const Json& counts = fields.Value("counts");
  fields.RefuseUnread();
  const std::string where = fields.Where("counts");
  RequireLength(counts, where, popularity.layers, "layers");
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    ReadLayer(counts[layer], fmt::format("{}[{}]", where, layer), popularity);
  }
  return popularity;
}

void WritePopularity(const ExpertPopularity& popularity, const std::filesystem::path& path) {
  WriteFileAtomically(path, SerializePopularity(popularity));
}

ExpertPopularity ReadPopularity(const std::filesystem::path& path) {
  return ParsePopularity(ReadFile(path, kMaxFileBytes), path.string());
}

}  // namespace fiddler
