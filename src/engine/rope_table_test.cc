#include "engine/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fiddler {
namespace {

// Expected values: ROPE_INIT_FUNCTIONS of transformers 5.23.0 for the same parameters.
void ExpectFrequencies(const RopeSpec& rope, const std::vector<float>& expected) {
  const std::vector<float> got = RopeFrequencies(rope);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    // Ours are blended in double, theirs in float32: a few last bits.
    EXPECT_NEAR(got[i] / expected[i], 1, 1e-6) << "pair " << i;
  }
}

TEST(RopeFrequenciesTest, Plain) {
  ExpectFrequencies({.theta = 10000, .rotary_dim = 8}, {1.0f, 0.1f, 0.01f, 0.001f});
}

TEST(RopeFrequenciesTest, Linear) {
  ExpectFrequencies(
      {.theta = 10000, .rotary_dim = 16, .scaling = RopeSpec::Scaling::kLinear, .factor = 2.5},
      {0.4000000059604645f, 0.12649109959602356f, 0.03999999910593033f, 0.012649111449718475f,
       0.003999999724328518f, 0.0012649111449718475f, 0.0004000000189989805f, 0.0001264911115868017f});
}

TEST(RopeFrequenciesTest, Llama3) {
  ExpectFrequencies(
      {.theta = 500000,
       .rotary_dim = 32,
       .scaling = RopeSpec::Scaling::kLlama3,
       .factor = 8,
       .original_context = 8192,
       .low_frequency = 1,
       .high_frequency = 4},
      {1.0f, 0.44036662578582764f, 0.193922758102417f, 0.08539710193872452f, 0.03760603070259094f,
       0.016560440883040428f, 0.00729266507551074f, 0.0032114461064338684f, 0.0005248460220173001f,
       7.784655463183299e-05f, 3.428102354519069e-05f, 1.5096217794052791e-05f, 6.647869668086059e-06f,
       2.927499735960737e-06f, 1.289173155782919e-06f, 5.677088097399974e-07f});
}

TEST(RopeFrequenciesTest, YarnAsInQwen3) {
  ExpectFrequencies(
      {.theta = 1000000,
       .rotary_dim = 32,
       .scaling = RopeSpec::Scaling::kYarn,
       .factor = 4,
       .original_context = 32768},
      {1.0f, 0.4216965138912201f, 0.17782793939113617f, 0.07498941570520401f, 0.03162277862429619f,
       0.01333521492779255f, 0.00477990135550499f, 0.001659961650148034f, 0.0005499999970197678f,
       0.00016867858357727528f, 4.4456985051510856e-05f, 1.8747356079984456e-05f, 7.905693564680405e-06f,
       3.3338035336782923e-06f, 1.405853367941745e-06f, 5.928434347879374e-07f});
}

TEST(RopeFrequenciesTest, YarnWithItsOwnRampNotRounded) {
  ExpectFrequencies(
      {.theta = 10000,
       .rotary_dim = 32,
       .scaling = RopeSpec::Scaling::kYarn,
       .factor = 40,
       .original_context = 4096,
       .beta_fast = 16,
       .beta_slow = 2,
       .truncate = false},
      {1.0f, 0.5623413324356079f, 0.3162277638912201f, 0.17782793939113617f, 0.10000000149011612f,
       0.05623412877321243f, 0.03162277862429619f, 0.015096119605004787f, 0.005790104623883963f,
       0.0017382187070325017f, 0.00012395245721563697f, 4.4456985051510856e-05f, 2.499999936844688e-05f,
       1.4058532542549074e-05f, 7.905694474175107e-06f, 4.445698323252145e-06f});
}

TEST(RopeTableTest, CosinesAndSinesOfEveryPosition) {
  RopeSpec rope = {.theta = 10000, .rotary_dim = 6};
  rope.attention_factor = 1.25;
  const RopeTable table(rope, 5000);
  const std::vector<float> frequencies = RopeFrequencies(rope);
  for (int64_t position : {0, 1, 31, 32, 4999}) {
    for (size_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      // The angle itself is a float, as in transformers: at 4999 its last bit is worth 2.4e-4.
      const double tolerance = 1e-6 + static_cast<double>(position) * 6e-8 * 1.25;
      EXPECT_NEAR(table.Cos(position)[i], 1.25 * std::cos(angle), tolerance);
      EXPECT_NEAR(table.Sin(position)[i], 1.25 * std::sin(angle), tolerance);
    }
  }
}

}  // namespace
}  // namespace fiddler
