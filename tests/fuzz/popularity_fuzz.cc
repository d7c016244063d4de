// Any bytes are either refused with one clear line, or a profile of experts that adds up.
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "experts/popularity.h"
#include "sealed_fuzz.h"

namespace {

using namespace fiddler;

void Check(std::string_view file) {
  try {
    const ExpertPopularity popularity = ParsePopularity(file, "input");
    for (int64_t layer = 0; layer < popularity.layers; ++layer) {
      const auto counts = popularity.Layer(layer);
      CHECK(std::accumulate(counts.begin(), counts.end(), int64_t{0}) ==
            popularity.tokens * popularity.top_k);
    }
    const double share = TopShare(popularity, 1);
    CHECK(share >= 0 && share <= 1, "{}", share);
    CHECK(ParsePopularity(SerializePopularity(popularity), "input") == popularity);
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  Check(file);
  Check(SealedAnew({.name = "fiddler expert popularity", .version = 1}, file));
  return 0;
}
