#include "experts/popularity.h"

#include <gtest/gtest.h>

#include "base/error_testing.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/sealed_json.h"

namespace fiddler {
namespace {

ExpertPopularity Small() {
  return {.family = "mixtral",
          .layers = 2,
          .experts = 3,
          .top_k = 2,
          .text = "tales.txt",
          .tokens = 5,
          .counts = {5, 3, 2, 0, 5, 5}};
}

// The small one with a field replaced (null: taken out), sealed anew.
std::string With(const char* field, Json value) {
  Json json = ParseJson(SerializePopularity(Small()), "f");
  for (const char* seal : {"kind", "version", "checksum"}) json.erase(seal);
  if (value.is_null()) {
    json.erase(field);
  } else {
    json[field] = std::move(value);
  }
  return SealJson({.name = "fiddler expert popularity", .version = 1}, json);
}

std::string Complaint(const std::string& text) {
  return ErrorOf([&] { ParsePopularity(text, "f"); });
}

TEST(PopularityTest, FileAndBack) { EXPECT_EQ(ParsePopularity(SerializePopularity(Small()), "f"), Small()); }

TEST(PopularityTest, TopSharesAreMeansOverLayers) {
  EXPECT_DOUBLE_EQ(TopShare(Small(), 1), (0.5 + 0.5) / 2);
  EXPECT_DOUBLE_EQ(TopShare(Small(), 2), (0.8 + 1.0) / 2);
  EXPECT_DOUBLE_EQ(TopShare(Small(), 3), 1);
  EXPECT_DOUBLE_EQ(TopShare(Small(), 7), 1);
  ExpertPopularity nothing = Small();
  nothing.tokens = 0;
  nothing.counts.assign(6, 0);
  EXPECT_EQ(TopShare(nothing, 1), 0);
  EXPECT_EQ(ParsePopularity(SerializePopularity(nothing), "f"), nothing);
}

TEST(PopularityTest, ErrorsNameTheField) {
  for (const char* field : {"family", "layers", "experts", "top_k", "text", "tokens", "counts"}) {
    EXPECT_EQ(Complaint(With(field, nullptr)),
              fmt::format("f: {}: expected a value, got nothing: the field is missing", field));
  }
  EXPECT_EQ(Complaint(With("top_k", 4)), "f: top_k: expected an integer from 1 to 3, got 4");
  EXPECT_EQ(Complaint(With("layers", 3)), "f: counts: expected 3 layers, got 2");
  EXPECT_EQ(Complaint(With("counts", {{5, 5}, {0, 5, 5}})), "f: counts[0]: expected 3 experts, got 2");
  EXPECT_EQ(Complaint(With("counts", {{5, 5, 0}, 7})), "f: counts[1]: expected an array of experts, got 7");
  EXPECT_EQ(Complaint(With("counts", {{6, 4, 0}, {0, 5, 5}})),
            "f: counts[0][0]: expected a count from 0 to 5, got 6");
  EXPECT_EQ(Complaint(With("counts", {{5, 4, 2}, {0, 5, 5}})),
            "f: counts[0][2]: expected a count from 0 to 1, got 2");
  EXPECT_EQ(Complaint(With("counts", {{5, -1, 5}, {0, 5, 5}})),
            "f: counts[0][1]: expected a count from 0 to 5, got -1");
  EXPECT_EQ(Complaint(With("counts", {{5, 3, 2}, {0, 5, 4}})),
            "f: counts[1]: expected counts that add up to tokens * top_k, 10, got 9");
  EXPECT_EQ(Complaint(With("counts", {{5, 3, 2.0}, {0, 5, 5}})),
            "f: counts[0][2]: expected a count from 0 to 2, got 2.0");
  EXPECT_EQ(Complaint(With("more", 1)), "f: expected no field but the known ones, got \"more\": 1");
}

// A file that was cut short or edited by hand.
TEST(PopularityTest, DamageIsRefused) {
  const std::string whole = SerializePopularity(Small());
  for (size_t size = 0; size + 2 < whole.size(); ++size) Complaint(whole.substr(0, size));
  std::string edited = whole;
  edited.replace(edited.find("[5,3,2]"), 7, "[5,2,3]");
  EXPECT_NE(Complaint(edited).find("f: checksum: expected"), std::string::npos);
}

}  // namespace
}  // namespace fiddler
