#include "experts/host_experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error_testing.h"
#include "experts/packed_testing.h"

namespace fiddler {
namespace {

// A file of experts behind so many slots; the first layer has none, as in models that begin with a dense one.
class Tier {
 public:
  Tier(int64_t layers, int64_t experts, int64_t slots, bool large = false)
      : header_(TestHeader(layers, experts, large)),
        shapes_(static_cast<size_t>(experts), header_.expert),
        host_(Layers(), WriteTestFile(folder_.file(), header_),
              HugePageBuffer(static_cast<size_t>(slots) * header_.stride(), "test"), {.threads = 3}) {}

  HostExperts& host() { return host_; }
  const PackedHeader& header() const { return header_; }
  std::filesystem::path path() const { return folder_.file(); }

  bool IsRight(int64_t layer, int32_t expert, const SlicedFfn& ffn) const {
    return ffn.slice_neurons == header_.expert.slice_neurons &&
           IsExpert(header_, (layer - 1) * header_.num_experts + expert, ffn.data);
  }

 private:
  ExpertLayers Layers() const {
    ExpertLayers layers = {{}};
    for (int64_t i = 0; i < header_.num_layers; ++i) layers.emplace_back(shapes_);
    return layers;
  }

  PackedFolder folder_;
  PackedHeader header_;
  std::vector<SlicedFfn> shapes_;
  HostExperts host_;
};

TEST(HostExpertsTest, InMemoryItIsATable) {
  const std::vector<SlicedFfn> experts(4);
  HostExperts host({{}, experts});
  EXPECT_TRUE(host.in_memory());
  const ExpertNeed needs[] = {{1, 2}, {3, 1}};
  host.Request(1, 2, needs);
  EXPECT_TRUE(host.Ready(1));
  EXPECT_EQ(&host.Wait(0), &experts[1]);
  EXPECT_EQ(&host.Wait(1), &experts[3]);
}

// Random requests, more than there are slots now and then; whatever is held at a time stays right.
TEST(HostExpertsTest, WhateverIsAskedForIsThereUntilItIsReleased) {
  constexpr int64_t kLayers = 3;
  constexpr int64_t kExperts = 12;
  for (const int64_t slots : {1, 3, 12, 36}) {
    Tier tier(kLayers, kExperts, slots);
    Rng rng(static_cast<uint64_t>(slots));
    std::vector<int32_t> order(kExperts);
    std::iota(order.begin(), order.end(), 0);
    for (int step = 0; step < 60; ++step) {
      for (int64_t layer = 1; layer <= kLayers; ++layer) {
        for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.NextBits() % i]);
        std::vector<ExpertNeed> needs;
        for (size_t i = 1 + rng.NextBits() % kExperts; i > 0; --i)
          needs.push_back({order[i - 1], static_cast<int64_t>(1 + rng.NextBits() % 3)});
        tier.host().Request(layer, 2, needs);
        const size_t held = std::min<size_t>(static_cast<size_t>(slots), needs.size());
        std::vector<const SlicedFfn*> ffns;
        for (size_t i = 0; i < needs.size() + held; ++i) {
          if (i >= held) {  // the one that came first goes
            const size_t oldest = i - held;
            ASSERT_TRUE(tier.IsRight(layer, needs[oldest].expert, *ffns[oldest])) << step;
            tier.host().Release(oldest);
          }
          if (i < needs.size()) ffns.push_back(&tier.host().Wait(i));
        }
      }
    }
    const HostExperts::Traffic traffic = tier.host().traffic();
    EXPECT_EQ(traffic.bytes_read, static_cast<uint64_t>(traffic.misses) * tier.header().stride());
    if (slots == 36) {
      EXPECT_EQ(traffic.misses, kLayers * kExperts);
    }
  }
}

TEST(HostExpertsTest, ExpertsOfManyPieces) {
  Tier tier(1, 4, 2, /*large=*/true);
  for (const int32_t first : {0, 2, 1}) {
    const ExpertNeed needs[] = {{first, 1}, {first + 1, 1}};
    tier.host().Request(1, 1, needs);
    for (const size_t i : {0U, 1U})
      EXPECT_TRUE(tier.IsRight(1, needs[i].expert, tier.host().Wait(i))) << first;
  }
}

TEST(HostExpertsTest, WhatIsWantedOftenStays) {
  Tier tier(1, 8, 4);
  for (int32_t step = 0; step < 50; ++step) {  // 0 and 1 every time, the others in turn
    const ExpertNeed needs[] = {{0, 1}, {1, 1}, {2 + step % 6, 1}};
    tier.host().Request(1, 1, needs);
    for (const size_t i : {0U, 1U, 2U}) tier.host().Wait(i);
    for (const size_t i : {0U, 1U, 2U}) tier.host().Release(i);
  }
  EXPECT_EQ(tier.host().traffic().hits, 98);  // all but their first
}

TEST(HostExpertsTest, ADamagedExpertIsAnErrorAndTheOthersAreNot) {
  Tier tier(2, 3, 2);
  FlipByte(tier.path(), tier.header().OffsetOf(4) + 77);  // layer 1 of 0 and 1, expert 1
  const ExpertNeed needs[] = {{0, 1}, {1, 1}, {2, 1}};
  for (int attempt = 0; attempt < 2; ++attempt) {  // the second time it is not taken for read
    tier.host().Request(2, 1, needs);
    tier.host().Wait(0);
    const std::string error = ErrorOf([&] { tier.host().Wait(1); });
    EXPECT_TRUE(error.starts_with(tier.path().string() +
                                  ": layer 1 of those with experts, expert 1: checksum: expected"))
        << error;
    tier.host().Request(1, 1, needs);  // the request that failed is given up
    for (const size_t i : {0U, 1U, 2U}) {
      EXPECT_TRUE(tier.IsRight(1, needs[i].expert, tier.host().Wait(i)));
      tier.host().Release(i);
    }
  }
}

TEST(HostExpertsTest, AFileThatShrinksIsAnError) {
  Tier tier(1, 3, 2);
  std::filesystem::resize_file(tier.path(), tier.header().OffsetOf(1) + 10);
  const ExpertNeed needs[] = {{0, 1}, {1, 1}};
  tier.host().Request(1, 1, needs);
  EXPECT_TRUE(tier.IsRight(1, 0, tier.host().Wait(0)));
  EXPECT_NE(ErrorOf([&] { tier.host().Wait(1); }).find("got the end"), std::string::npos);
}

TEST(HostExpertsTest, ARequestMayBeLeftInTheMiddleOfReading) {
  for (int i = 0; i < 20; ++i) {
    Tier tier(1, 6, 5);
    const ExpertNeed needs[] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}};
    tier.host().Request(1, 1, needs);  // and away
  }
}

}  // namespace
}  // namespace fiddler
