// RoPE in config.json: both spellings, which one wins, every kind of stretching.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/arch/common.h"
#include "model/model.h"
#include "model/test_configs.h"

namespace fiddler {
namespace {

TEST(RopeConfigTest, BothSpellingsMeanTheSame) {
  const Json old_spelling = {{"rope_theta", 5e5}, {"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}}};
  const Json new_spelling = {
      {"rope_theta", "absent"},
      {"rope_scaling", "absent"},
      {"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.5}, {"rope_theta", 5e5}}}};
  for (std::string_view name : kNames) {
    for (const Json& spelling : {old_spelling, new_spelling}) {
      const RopeSpec rope = Parse(With(name, spelling)).rope;
      EXPECT_EQ(rope.theta, 5e5);
      EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLinear);
      EXPECT_EQ(rope.factor, 2.5);
    }
  }
}

// Where a file says it twice, transformers has an order: rope_scaling replaces rope_parameters as a whole; a
// theta in there wins over one outside; rope_type wins over type.
TEST(RopeConfigTest, WhoWins) {
  const Json both = {{"rope_theta", 1e3},
                     {"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 1e4}}},
                     {"rope_scaling", {{"rope_type", "linear"}, {"type", "yarn"}, {"factor", 3.0}}}};
  const RopeSpec replaced = Parse(With(kMixtralName, both)).rope;
  EXPECT_EQ(replaced.theta, 1e3);
  EXPECT_EQ(replaced.factor, 3);
  EXPECT_EQ(replaced.scaling, RopeSpec::Scaling::kLinear);

  Json parameters_only = both;
  for (const Json& nothing : {Json(nullptr), Json::object()}) {
    parameters_only["rope_scaling"] = nothing;
    const RopeSpec rope = Parse(With(kMixtralName, parameters_only)).rope;
    EXPECT_EQ(rope.theta, 1e4);
    EXPECT_EQ(rope.factor, 2);
  }
}

TEST(RopeConfigTest, Yarn) {
  const auto parse = [](const Json& scaling, Json more = Json::object()) {
    more["rope_scaling"] = scaling;
    return Parse(With(kQwen3Name, more)).rope;
  };
  const RopeSpec plain = parse({{"type", "yarn"}, {"factor", 2.0}});
  EXPECT_EQ(plain.original_context, 40960);  // max_position_embeddings
  const RopeSpec given = parse({{"rope_type", "yarn"},
                                {"factor", 8},
                                {"original_max_position_embeddings", 1024},
                                {"beta_fast", 16},
                                {"beta_slow", 2},
                                {"truncate", false},
                                {"attention_factor", 0.7}});
  EXPECT_EQ(given.original_context, 1024);
  EXPECT_EQ(given.beta_fast, 16);
  EXPECT_EQ(given.beta_slow, 2);
  EXPECT_FALSE(given.truncate);
  EXPECT_EQ(given.attention_factor, 0.7);
  const RopeSpec zero = parse({{"rope_type", "yarn"}, {"factor", 8}, {"beta_fast", 0}, {"beta_slow", 0}});
  EXPECT_EQ(zero.beta_fast, 32);
  EXPECT_EQ(zero.beta_slow, 1);
  // No factor: the ratio of the contexts; and the top level's original context wins.
  const RopeSpec ratio = parse({{"rope_type", "yarn"}, {"original_max_position_embeddings", 4096}},
                               {{"original_max_position_embeddings", 10240}});
  EXPECT_EQ(ratio.original_context, 10240);
  EXPECT_EQ(ratio.factor, 4);
  EXPECT_NEAR(parse({{"rope_type", "yarn"}, {"factor", 40.0}, {"mscale", 0.7}, {"mscale_all_dim", 1.0}})
                  .attention_factor,
              0.9191559952044436, 1e-12);  // transformers
  EXPECT_NEAR(parse({{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}}).attention_factor,
              1.138629436111989, 1e-12);  // mscale alone says nothing
  EXPECT_EQ(parse({{"rope_type", "yarn"}, {"factor", 0.5}}).attention_factor, 1);
}

TEST(RopeConfigTest, Llama3) {
  Json scaling = {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.5},
                  {"high_freq_factor", 4.5},
                  {"original_max_position_embeddings", 8192}};
  const RopeSpec rope = Parse(With(kOlmoeName, {{"rope_scaling", scaling}})).rope;
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLlama3);
  EXPECT_EQ(rope.factor, 8);
  EXPECT_EQ(rope.low_frequency, 1.5);
  EXPECT_EQ(rope.high_frequency, 4.5);
  EXPECT_EQ(rope.original_context, 8192);
  for (const char* field : {"factor", "low_freq_factor", "high_freq_factor"}) {
    Json without = scaling;
    without.erase(field);
    const std::string error = ErrorOfParsing(With(kOlmoeName, {{"rope_scaling", without}}));
    EXPECT_TRUE(error.starts_with(fmt::format("config.json: rope_scaling: {}: ", field))) << error;
  }
  scaling["high_freq_factor"] = 1.5;
  EXPECT_TRUE(ErrorOfParsing(With(kOlmoeName, {{"rope_scaling", scaling}}))
                  .starts_with("config.json: rope_scaling: high_freq_factor: expected more than"));
}

TEST(RopeConfigTest, RefusedByName) {
  const auto error_of = [](const Json& scaling) {
    return ErrorOfParsing(With(kMixtralName, {{"rope_scaling", scaling}}));
  };
  for (const char* type : {"dynamic", "longrope", "su", ""}) {
    EXPECT_EQ(
        error_of({{"rope_type", type}, {"factor", 2.0}}),
        fmt::format("config.json: rope_scaling: rope_type: expected one of default, linear, llama3, yarn, "
                    "got \"{}\"",
                    type));
  }
  EXPECT_TRUE(error_of({{"rope_type", "linear"}}).starts_with("config.json: rope_scaling: factor: "));
  EXPECT_TRUE(
      error_of({{"rope_type", "linear"}, {"factor", 0}}).starts_with("config.json: rope_scaling: factor"));
  EXPECT_TRUE(error_of({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}})
                  .starts_with("config.json: rope_scaling: partial_rotary_factor: expected 1.0, got 0.5"));
  EXPECT_TRUE(error_of({{"rope_type", "default"}, {"mrope_section", {16, 24, 24}}})
                  .starts_with("config.json: rope_scaling: mrope_section: expected no such field"));
  EXPECT_NO_THROW(Parse(With(kMixtralName, {{"partial_rotary_factor", 1.0}})));
}

TEST(RopeConfigTest, FieldsInsideCanBeToleratedToo) {
  const Json config =
      With(kMixtralName, {{"rope_scaling", {{"type", "default"}, {"mrope_section", {16, 24}}}}});
  const std::vector<std::string> tolerated = {"mrope_section"};
  EXPECT_EQ(ParseConfig(config, "config.json", tolerated).rope.scaling, RopeSpec::Scaling::kNone);
}

// What a built-in geometry must have in common with the published config.json it stands for.

}  // namespace
}  // namespace fiddler
