// Published models, to the last parameter, and the geometries built in after them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/arch/common.h"
#include "model/model.h"
#include "model/test_configs.h"

namespace fiddler {
namespace {

bool AllMoeWithoutWindow(const ModelSpec& spec) {
  return std::all_of(spec.layers.begin(), spec.layers.end(),
                     [](const LayerSpec& layer) { return layer.is_moe && layer.sliding_window == 0; });
}

TEST(PublishedConfigTest, Mixtral8x7b) {
  const ModelSpec spec = Parse(Published(kMixtralName));
  EXPECT_EQ(spec.family, "mixtral");
  EXPECT_EQ(spec.hidden, 4096);
  EXPECT_EQ(spec.vocab_size, 32000);
  EXPECT_EQ(spec.max_positions, 32768);
  EXPECT_EQ(spec.rms_norm_epsilon, 1e-5f);
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_EQ(spec.attention.num_heads, 32);
  EXPECT_EQ(spec.attention.num_kv_heads, 8);
  EXPECT_EQ(spec.attention.head_dim, 128);
  EXPECT_EQ(spec.attention.q_width(), 4096);
  EXPECT_EQ(spec.attention.kv_width(), 1024);
  EXPECT_EQ(spec.attention.group(), 4);
  EXPECT_FALSE(spec.attention.qkv_bias);
  EXPECT_FALSE(spec.attention.output_bias);
  EXPECT_EQ(spec.attention.qk_norm, QkNorm::kNone);
  EXPECT_EQ(spec.attention.clip_qkv, std::nullopt);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.rope.rotary_dim, 128);
  EXPECT_EQ(spec.rope.scaling, RopeSpec::Scaling::kNone);
  EXPECT_EQ(spec.rope.attention_factor, 1);
  EXPECT_EQ(spec.moe.num_experts, 8);
  EXPECT_EQ(spec.moe.top_k, 2);
  EXPECT_EQ(spec.moe.intermediate, 14336);
  EXPECT_TRUE(spec.moe.renormalize);
  EXPECT_EQ(spec.moe.shared_intermediate, 0);
  EXPECT_EQ(spec.num_layers(), 32);
  EXPECT_TRUE(AllMoeWithoutWindow(spec));
  EXPECT_EQ(spec.bos_token, 1);
  EXPECT_EQ(spec.eos_tokens, (std::vector<int32_t>{2}));
}

TEST(PublishedConfigTest, Olmoe1b7b) {
  const ModelSpec spec = Parse(Published(kOlmoeName));
  EXPECT_EQ(spec.family, "olmoe");
  EXPECT_EQ(spec.hidden, 2048);
  EXPECT_EQ(spec.vocab_size, 50304);
  EXPECT_EQ(spec.max_positions, 4096);
  EXPECT_EQ(spec.rms_norm_epsilon, 1e-5f);
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_EQ(spec.attention.num_heads, 16);
  EXPECT_EQ(spec.attention.num_kv_heads, 16);
  EXPECT_EQ(spec.attention.head_dim, 128);
  EXPECT_FALSE(spec.attention.qkv_bias);
  EXPECT_FALSE(spec.attention.output_bias);
  EXPECT_EQ(spec.attention.qk_norm, QkNorm::kFullWidth);
  EXPECT_EQ(spec.attention.clip_qkv, std::nullopt);
  EXPECT_EQ(spec.rope.theta, 1e4);
  EXPECT_EQ(spec.moe.num_experts, 64);
  EXPECT_EQ(spec.moe.top_k, 8);
  EXPECT_EQ(spec.moe.intermediate, 1024);
  EXPECT_FALSE(spec.moe.renormalize);
  EXPECT_EQ(spec.moe.shared_intermediate, 0);
  EXPECT_EQ(spec.num_layers(), 16);
  EXPECT_TRUE(AllMoeWithoutWindow(spec));
  EXPECT_EQ(spec.bos_token, std::nullopt);
  EXPECT_EQ(spec.eos_tokens, (std::vector<int32_t>{50279}));
}

TEST(PublishedConfigTest, Qwen15MoeA27b) {
  const ModelSpec spec = Parse(Published(kQwen2Name));
  EXPECT_EQ(spec.family, "qwen2_moe");
  EXPECT_EQ(spec.hidden, 2048);
  EXPECT_EQ(spec.vocab_size, 151936);
  EXPECT_EQ(spec.max_positions, 8192);
  EXPECT_EQ(spec.rms_norm_epsilon, 1e-6f);
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_EQ(spec.attention.num_heads, 16);
  EXPECT_EQ(spec.attention.num_kv_heads, 16);
  EXPECT_EQ(spec.attention.head_dim, 128);
  EXPECT_TRUE(spec.attention.qkv_bias);
  EXPECT_FALSE(spec.attention.output_bias);
  EXPECT_EQ(spec.attention.qk_norm, QkNorm::kNone);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.moe.num_experts, 60);
  EXPECT_EQ(spec.moe.top_k, 4);
  EXPECT_EQ(spec.moe.intermediate, 1408);
  EXPECT_FALSE(spec.moe.renormalize);
  EXPECT_EQ(spec.moe.shared_intermediate, 5632);
  EXPECT_EQ(spec.num_layers(), 24);
  EXPECT_TRUE(AllMoeWithoutWindow(spec));
  EXPECT_EQ(spec.eos_tokens, (std::vector<int32_t>{151643}));
}

TEST(PublishedConfigTest, Qwen330bA3b) {
  const ModelSpec spec = Parse(Published(kQwen3Name));
  EXPECT_EQ(spec.family, "qwen3_moe");
  EXPECT_EQ(spec.hidden, 2048);
  EXPECT_EQ(spec.vocab_size, 151936);
  EXPECT_EQ(spec.max_positions, 40960);
  EXPECT_EQ(spec.rms_norm_epsilon, 1e-6f);
  EXPECT_FALSE(spec.tied_embeddings);
  EXPECT_EQ(spec.attention.num_heads, 32);
  EXPECT_EQ(spec.attention.num_kv_heads, 4);
  EXPECT_EQ(spec.attention.head_dim, 128);  // not hidden / heads, which is 64
  EXPECT_FALSE(spec.attention.qkv_bias);
  EXPECT_FALSE(spec.attention.output_bias);
  EXPECT_EQ(spec.attention.qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.rope.scaling, RopeSpec::Scaling::kNone);
  EXPECT_EQ(spec.moe.num_experts, 128);
  EXPECT_EQ(spec.moe.top_k, 8);
  EXPECT_EQ(spec.moe.intermediate, 768);
  EXPECT_TRUE(spec.moe.renormalize);
  EXPECT_EQ(spec.moe.shared_intermediate, 0);
  EXPECT_EQ(spec.num_layers(), 48);
  EXPECT_TRUE(AllMoeWithoutWindow(spec));
  EXPECT_EQ(spec.bos_token, 151643);
  EXPECT_EQ(spec.eos_tokens, (std::vector<int32_t>{151645}));
}

TEST(PublishedConfigTest, Qwen330bA3bStretchedToFourTimesItsContext) {
  const ModelSpec spec = Parse(Published("qwen3-30b-a3b-yarn"));
  EXPECT_EQ(spec.max_positions, 131072);  // max_position_embeddings still says 40960
  EXPECT_EQ(spec.rope.scaling, RopeSpec::Scaling::kYarn);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.rope.factor, 4);
  EXPECT_EQ(spec.rope.original_context, 32768);
  EXPECT_EQ(spec.rope.beta_fast, 32);
  EXPECT_EQ(spec.rope.beta_slow, 1);
  EXPECT_TRUE(spec.rope.truncate);
  EXPECT_NEAR(spec.rope.attention_factor, 1.138629436111989, 1e-12);  // 0.1 ln(4) + 1
}

// The model cards' numbers, in billions. They count the embedding matrix as active; ParameterCount does not.
TEST(PublishedConfigTest, ParameterCounts) {
  struct Expected {
    std::string_view name;
    int64_t total;
    double active;
  };
  constexpr Expected kExpected[] = {{kMixtralName, 46'702'792'704, 12.9},
                                    {kOlmoeName, 6'919'161'856, 1.3},
                                    {kQwen2Name, 14'315'784'192, 2.7},
                                    {kQwen3Name, 30'532'122'624, 3.3}};
  for (const auto& [name, total, active] : kExpected) {
    const ModelSpec spec = Parse(Published(name));
    const ParameterCount count = CountParameters(spec);
    EXPECT_EQ(count.total, total) << name;
    EXPECT_NEAR(static_cast<double>(count.active + spec.vocab_size * spec.hidden) * 1e-9, active, 0.055)
        << name;
    EXPECT_EQ(count.experts,
              spec.num_layers() * spec.moe.num_experts * 3 * spec.hidden * spec.moe.intermediate)
        << name;
  }
}

// Every field a family cannot do without. The families' own defaults cover the others (DefaultsOfTheFamily).
void ExpectSameModel(const ModelSpec& built_in, const ModelSpec& published) {
  EXPECT_EQ(built_in.family, published.family);
  EXPECT_EQ(built_in.hidden, published.hidden);
  EXPECT_EQ(built_in.max_positions, published.max_positions);
  EXPECT_EQ(built_in.rms_norm_epsilon, published.rms_norm_epsilon);
  EXPECT_EQ(built_in.tied_embeddings, published.tied_embeddings);
  EXPECT_EQ(built_in.attention.num_heads, published.attention.num_heads);
  EXPECT_EQ(built_in.attention.num_kv_heads, published.attention.num_kv_heads);
  EXPECT_EQ(built_in.attention.head_dim, published.attention.head_dim);
  EXPECT_EQ(built_in.attention.qkv_bias, published.attention.qkv_bias);
  EXPECT_EQ(built_in.attention.qk_norm, published.attention.qk_norm);
  EXPECT_EQ(built_in.rope.theta, published.rope.theta);
  EXPECT_EQ(built_in.rope.rotary_dim, published.rope.rotary_dim);
  EXPECT_EQ(built_in.rope.scaling, published.rope.scaling);
  EXPECT_EQ(built_in.moe.num_experts, published.moe.num_experts);
  EXPECT_EQ(built_in.moe.top_k, published.moe.top_k);
  EXPECT_EQ(built_in.moe.intermediate, published.moe.intermediate);
  EXPECT_EQ(built_in.moe.renormalize, published.moe.renormalize);
  EXPECT_EQ(built_in.moe.shared_intermediate, published.moe.shared_intermediate);
  EXPECT_TRUE(AllMoeWithoutWindow(built_in));
}

TEST(GeometryTest, EqualThePublishedConfigs) {
  struct Expected {
    std::string_view name;
    std::string_view published;
    int64_t layers;
    int64_t vocab_size;
  };
  constexpr Expected kExpected[] = {{"mixtral-8x7b", kMixtralName, 32, 32000},
                                    {"mixtral-4l", kMixtralName, 4, 32000},
                                    {"qwen3-30b-a3b", kQwen3Name, 48, 151936},
                                    {"qwen3-12l", kQwen3Name, 12, 32000},
                                    {"olmoe-1b-7b", kOlmoeName, 16, 50304}};
  EXPECT_EQ(GeometryNames().size(), std::size(kExpected));
  for (const auto& [name, published_name, layers, vocab_size] : kExpected) {
    SCOPED_TRACE(name);
    const ModelConfig built_in = ReadModelConfig(std::string(name));
    const ModelSpec published = Parse(Published(published_name));
    ExpectSameModel(built_in.spec, published);
    EXPECT_EQ(built_in.spec.num_layers(), layers);
    EXPECT_EQ(built_in.spec.vocab_size, vocab_size);
    EXPECT_EQ(built_in.name, name);
    EXPECT_TRUE(built_in.directory.empty());
    if (vocab_size == published.vocab_size) {
      EXPECT_EQ(built_in.spec.eos_tokens, published.eos_tokens);
      EXPECT_EQ(built_in.spec.bos_token, published.bos_token);
    } else {
      EXPECT_TRUE(built_in.spec.eos_tokens.empty());  // of another vocabulary
    }
  }
}

}  // namespace
}  // namespace fiddler
