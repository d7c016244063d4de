// config.json to ModelSpec, family by family: published models (tests/oracle/configs), both spellings, and
// everything that must be refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "io/test_files.h"
#include "model/arch/common.h"
#include "model/model.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(FIDDLER_SOURCE_DIR) / "tests/oracle/configs";

Json Published(std::string_view name) {
  const fs::path path = kConfigs / fmt::format("{}.json", name);
  return ParseJson(ReadFile(path, 1 << 20), path.string());
}

ModelSpec Parse(const Json& config) { return ParseConfig(config, "config.json"); }

std::string ErrorOfParsing(const Json& config) {
  return ErrorOf([&] { Parse(config); });
}

// The published config with some fields changed; a field set to "absent" is taken out.
Json With(std::string_view name, const Json& changes) {
  Json config = Published(name);
  config.update(changes);
  for (const auto& [field, value] : changes.items()) {
    if (value == "absent") config.erase(field);
  }
  return config;
}

constexpr std::string_view kMixtralName = "mixtral-8x7b";
constexpr std::string_view kOlmoeName = "olmoe-1b-7b";
constexpr std::string_view kQwen2Name = "qwen1.5-moe-a2.7b";
constexpr std::string_view kQwen3Name = "qwen3-30b-a3b";
constexpr std::string_view kNames[] = {kMixtralName, kOlmoeName, kQwen2Name, kQwen3Name};

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
TEST(ParseConfigTest, MissingFieldsAreNamed) {
  const std::vector<std::string> common = {"hidden_size", "vocab_size", "num_hidden_layers",
                                           "num_attention_heads", "num_experts_per_tok"};
  const auto expect_named = [](std::string_view name, const std::string& field) {
    for (const Json& nothing : {Json("absent"), Json(nullptr)}) {
      const std::string error = ErrorOfParsing(With(name, {{field, nothing}}));
      EXPECT_TRUE(error.starts_with("config.json: " + field + ": expected ")) << error;
      EXPECT_TRUE(error.ends_with("got nothing: the field is missing")) << error;
    }
  };
  for (std::string_view name : kNames) {
    for (const std::string& field : common) expect_named(name, field);
  }
  expect_named(kMixtralName, "num_local_experts");
  expect_named(kMixtralName, "intermediate_size");
  expect_named(kOlmoeName, "num_experts");
  expect_named(kOlmoeName, "intermediate_size");
  for (std::string_view name : {kQwen2Name, kQwen3Name}) {
    expect_named(name, "num_experts");
    expect_named(name, "moe_intermediate_size");
  }
}

TEST(ParseConfigTest, WrongTypesAndRangesAreNamed) {
  struct Case {
    const char* field;
    Json value;
  };
  const Case cases[] = {
      {"hidden_size", "4096"},
      {"hidden_size", 0},
      {"hidden_size", -4096},
      {"hidden_size", 4096.5},
      {"hidden_size", kMaxWidth + 1},
      {"vocab_size", int64_t{1} << 40},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", kMaxLayers + 1},
      {"num_attention_heads", 0},
      {"num_attention_heads", kMaxHeads + 1},
      {"num_key_value_heads", 0},
      {"num_key_value_heads", 5},
      {"num_key_value_heads", 1024},
      {"head_dim", 0},
      {"head_dim", 63},
      {"head_dim", kMaxHeadDim + 2},
      {"num_experts_per_tok", 0},
      {"num_experts_per_tok", 1000},
      {"max_position_embeddings", 0},
      {"max_position_embeddings", kMaxPositions + 1},
      {"rms_norm_eps", -1e-6},
      {"rms_norm_eps", 2},
      {"rms_norm_eps", "1e-6"},
      {"rope_theta", 1},
      {"rope_theta", 1e300},
      {"tie_word_embeddings", 1},
      {"hidden_act", "gelu"},
      {"bos_token_id", -1},
      {"eos_token_id", {1, -2}},
      {"eos_token_id", int64_t{1} << 31},
      {"rope_scaling", {1, 2}},
      {"rope_parameters", "yarn"},
      {"partial_rotary_factor", 0.5},
      {"architectures", "MixtralForCausalLM"},
      {"model_type", 3},
  };
  for (std::string_view name : kNames) {
    for (const auto& [field, value] : cases) {
      const std::string error = ErrorOfParsing(With(name, {{field, value}}));
      EXPECT_TRUE(error.starts_with(fmt::format("config.json: {}: expected ", field))) << error;
      EXPECT_NE(error.find(", got "), std::string::npos) << error;
    }
  }
}

TEST(ParseConfigTest, TheLargestGeometryOverflowsNothing) {
  const Json config = {{"architectures", {"Qwen2MoeForCausalLM"}},
                       {"model_type", "qwen2_moe"},
                       {"hidden_size", kMaxWidth},
                       {"vocab_size", 1 << 24},
                       {"num_hidden_layers", kMaxLayers},
                       {"num_attention_heads", kMaxHeads},
                       {"num_key_value_heads", kMaxHeads},
                       {"head_dim", kMaxHeadDim},
                       {"num_experts", kMaxExperts},
                       {"num_experts_per_tok", kMaxExperts},
                       {"moe_intermediate_size", kMaxWidth},
                       {"shared_expert_intermediate_size", kMaxWidth}};
  const double total = static_cast<double>(CountParameters(Parse(config)).total);
  const double experts = static_cast<double>(kMaxLayers * kMaxExperts) * 3 * std::pow(kMaxWidth, 2);
  EXPECT_NEAR(total / experts, 1, 0.01);
  EXPECT_LT(total * 4, std::pow(2.0, 64));  // bytes of float32
}

TEST(ParseConfigTest, DefaultsOfTheFamily) {
  const Json absent = {{"num_key_value_heads", "absent"},
                       {"rms_norm_eps", "absent"},
                       {"rope_theta", "absent"},
                       {"max_position_embeddings", "absent"},
                       {"head_dim", "absent"},
                       {"norm_topk_prob", "absent"},
                       {"shared_expert_intermediate_size", "absent"}};
  const ModelSpec mixtral = Parse(With(kMixtralName, absent));
  EXPECT_EQ(mixtral.attention.num_kv_heads, 8);
  EXPECT_EQ(mixtral.rms_norm_epsilon, 1e-5f);
  EXPECT_EQ(mixtral.rope.theta, 1e6);
  EXPECT_EQ(mixtral.max_positions, 131072);
  const ModelSpec olmoe = Parse(With(kOlmoeName, absent));
  EXPECT_EQ(olmoe.attention.num_kv_heads, 16);
  EXPECT_EQ(olmoe.rms_norm_epsilon, 1e-5f);
  EXPECT_EQ(olmoe.rope.theta, 1e4);
  EXPECT_EQ(olmoe.max_positions, 4096);
  EXPECT_FALSE(olmoe.moe.renormalize);
  const ModelSpec qwen2 = Parse(With(kQwen2Name, absent));
  EXPECT_EQ(qwen2.attention.num_kv_heads, 16);
  EXPECT_EQ(qwen2.rms_norm_epsilon, 1e-6f);
  EXPECT_EQ(qwen2.rope.theta, 1e4);
  EXPECT_EQ(qwen2.max_positions, 32768);
  EXPECT_EQ(qwen2.moe.shared_intermediate, 5632);
  const ModelSpec qwen3 = Parse(With(kQwen3Name, absent));
  EXPECT_EQ(qwen3.attention.num_kv_heads, 4);
  EXPECT_EQ(qwen3.attention.head_dim, 64);
  EXPECT_EQ(qwen3.rope.theta, 1e4);
  EXPECT_EQ(qwen3.max_positions, 32768);
  EXPECT_FALSE(qwen3.moe.renormalize);
}

TEST(ParseConfigTest, FlagsOfTheFamilies) {
  EXPECT_TRUE(Parse(With(kMixtralName, {{"tie_word_embeddings", true}})).tied_embeddings);
  EXPECT_FALSE(Parse(With(kQwen2Name, {{"qkv_bias", false}})).attention.qkv_bias);
  EXPECT_TRUE(Parse(With(kQwen2Name, {{"norm_topk_prob", true}})).moe.renormalize);
  for (std::string_view name : {kOlmoeName, kQwen3Name}) {
    const ModelSpec spec = Parse(With(name, {{"attention_bias", true}}));
    EXPECT_TRUE(spec.attention.qkv_bias);
    EXPECT_TRUE(spec.attention.output_bias);
  }
  EXPECT_EQ(Parse(With(kOlmoeName, {{"clip_qkv", 8}})).attention.clip_qkv, 8.0f);
  EXPECT_TRUE(ErrorOfParsing(With(kOlmoeName, {{"clip_qkv", 0}})).starts_with("config.json: clip_qkv: "));
  EXPECT_TRUE(ErrorOfParsing(With(kOlmoeName, {{"head_dim", 64}})).starts_with("config.json: head_dim: "));
  const ModelSpec two_ends = Parse(With(kMixtralName, {{"eos_token_id", {2, 7}}, {"bos_token_id", nullptr}}));
  EXPECT_EQ(two_ends.eos_tokens, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(two_ends.bos_token, std::nullopt);
}

TEST(ParseConfigTest, NumberOfExpertsInBothSpellings) {
  for (std::string_view name : kNames) {
    const int64_t count = Parse(Published(name)).moe.num_experts;
    const std::string own = name == kMixtralName ? "num_local_experts" : "num_experts";
    const std::string alias = name == kMixtralName ? "num_experts" : "num_local_experts";
    EXPECT_EQ(Parse(With(name, {{own, "absent"}, {alias, count}})).moe.num_experts, count);
    EXPECT_EQ(Parse(With(name, {{own, nullptr}, {alias, count}})).moe.num_experts, count);
    EXPECT_EQ(Parse(With(name, {{alias, count}})).moe.num_experts, count);
    EXPECT_EQ(ErrorOfParsing(With(name, {{alias, count + 1}})),
              fmt::format("config.json: {}: expected {}, got {}", alias, count, count + 1));
  }
}

TEST(ParseConfigTest, UnsupportedFieldsAreRefusedByNameUnlessTolerated) {
  const Json fields = {{"quantization_config", {{"quant_method", "gptq"}}},
                       {"attention_sinks", true},
                       {"a_field_of_tomorrow", 0},
                       {"final_logit_softcapping", 30.0}};
  for (std::string_view name : kNames) {
    for (const auto& [field, value] : fields.items()) {
      const Json config = With(name, {{field, value}});
      const std::string error = ErrorOfParsing(config);
      EXPECT_TRUE(error.starts_with(fmt::format("config.json: {}: expected no such field", field))) << error;
      EXPECT_NE(error.find("--ignore-config-field"), std::string::npos) << error;

      const std::vector<std::string> tolerated = {"another", field};
      EXPECT_EQ(ParseConfig(config, "config.json", tolerated).hidden, Parse(Published(name)).hidden);
      EXPECT_NO_THROW(Parse(With(name, {{field, nullptr}})));
    }
  }
}

TEST(ParseConfigTest, UnknownArchitectures) {
  EXPECT_EQ(ErrorOfParsing(With(kMixtralName, {{"architectures", {"LlamaForCausalLM"}}})),
            "config.json: architectures: expected one of MixtralForCausalLM, OlmoeForCausalLM, "
            R"(Qwen2MoeForCausalLM, Qwen3MoeForCausalLM, got "LlamaForCausalLM")");
  EXPECT_EQ(ErrorOfParsing(With(kMixtralName, {{"architectures", "absent"}, {"model_type", "llama"}})),
            R"(config.json: model_type: expected one of mixtral, olmoe, qwen2_moe, qwen3_moe, got "llama")");
  EXPECT_EQ(ErrorOfParsing(Json::object()),
            "config.json: model_type: expected one of mixtral, olmoe, qwen2_moe, qwen3_moe, got nothing: the "
            "field is missing");
  // Both given, and they disagree: nobody knows which one is meant.
  EXPECT_EQ(ErrorOfParsing(With(kMixtralName, {{"model_type", "olmoe"}})),
            R"(config.json: model_type: expected "mixtral", got "olmoe")");
  // Either one is enough.
  EXPECT_EQ(Parse(With(kOlmoeName, {{"model_type", "absent"}})).family, "olmoe");
  EXPECT_EQ(Parse(With(kOlmoeName, {{"architectures", "absent"}})).family, "olmoe");
  EXPECT_EQ(Parse(With(kOlmoeName, {{"architectures", Json::array()}})).family, "olmoe");
}

TEST(ParseConfigTest, DenseLayersOfQwen) {
  const auto dense_layers = [](const ModelSpec& spec) {
    std::vector<int64_t> dense;
    for (int64_t l = 0; l < spec.num_layers(); ++l) {
      if (!spec.layers[static_cast<size_t>(l)].is_moe) dense.push_back(l);
    }
    return dense;
  };
  for (std::string_view name : {kQwen2Name, kQwen3Name}) {
    const Json none = Json::object();
    const Json small = {{"num_hidden_layers", 6}, {"intermediate_size", 99}};
    const auto parse = [&](const Json& changes) {
      Json all = small;
      all.update(changes);
      return Parse(With(name, all));
    };
    EXPECT_TRUE(dense_layers(parse(none)).empty());
    EXPECT_EQ(parse(none).dense_intermediate, 0);
    const ModelSpec listed = parse({{"mlp_only_layers", {1, 4, 17}}});
    EXPECT_EQ(dense_layers(listed), (std::vector<int64_t>{1, 4}));
    EXPECT_EQ(listed.dense_intermediate, 99);
    // A layer is MoE where (layer + 1) is a multiple of the step.
    EXPECT_EQ(dense_layers(parse({{"decoder_sparse_step", 2}})), (std::vector<int64_t>{0, 2, 4}));
    EXPECT_EQ(dense_layers(parse({{"decoder_sparse_step", 3}, {"mlp_only_layers", {5}}})),
              (std::vector<int64_t>{0, 1, 3, 4, 5}));
    EXPECT_TRUE(dense_layers(parse({{"mlp_only_layers", nullptr}})).empty());

    // The width of dense layers is asked for only where there are some.
    EXPECT_NO_THROW(parse({{"intermediate_size", "absent"}}));
    const std::string error = ErrorOf([&] {
      parse({{"intermediate_size", "absent"}, {"mlp_only_layers", {0}}});
    });
    EXPECT_TRUE(error.starts_with("config.json: intermediate_size: ")) << error;
    EXPECT_TRUE(ErrorOf([&] {
                  parse({{"decoder_sparse_step", 0}});
                }).starts_with("config.json: decoder_sparse_step: "));
  }
}

std::vector<int64_t> Windows(const ModelSpec& spec) {
  std::vector<int64_t> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.sliding_window);
  return windows;
}

TEST(WindowTest, MixtralHasOneEverywhereOrNone) {
  EXPECT_EQ(Windows(Parse(With(kMixtralName, {{"num_hidden_layers", 2}, {"sliding_window", 9}}))),
            (std::vector<int64_t>{9, 9}));
  EXPECT_EQ(Windows(Parse(With(kMixtralName, {{"num_hidden_layers", 2}, {"sliding_window", "absent"}}))),
            (std::vector<int64_t>{0, 0}));
  EXPECT_TRUE(ErrorOfParsing(With(kMixtralName, {{"sliding_window", 0}}))
                  .starts_with("config.json: sliding_window: "));
}

TEST(WindowTest, Qwen3HasOneEverywhereOrNone) {
  const auto windows = [](Json changes) {
    changes["num_hidden_layers"] = 2;
    return Windows(Parse(With(kQwen3Name, changes)));
  };
  const std::vector<int64_t> none = {0, 0};
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"sliding_window", 9}, {"max_window_layers", 1}}),
            (std::vector<int64_t>{9, 9}));
  EXPECT_EQ(windows({{"use_sliding_window", false}, {"sliding_window", 9}}), none);
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"sliding_window", "absent"}}),
            (std::vector<int64_t>{4096, 4096}));
  // Switched on, but null: transformers has no window then.
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"sliding_window", nullptr}}), none);
}

TEST(WindowTest, Qwen2HasThemByLayer) {
  const auto windows = [](Json changes) {
    changes.update({{"num_hidden_layers", 6}, {"sliding_window", 9}});
    return Windows(Parse(With(kQwen2Name, changes)));
  };
  const std::vector<int64_t> none(6, 0);
  EXPECT_EQ(windows({{"use_sliding_window", false}}), none);
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"max_window_layers", 3}}),
            (std::vector<int64_t>{9, 0, 9, 0, 0, 0}));
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"max_window_layers", 0}}), none);
  const std::string s = "sliding_attention";
  const std::string f = "full_attention";
  EXPECT_EQ(windows({{"use_sliding_window", true}, {"layer_types", {f, s, s, f, f, s}}}),
            (std::vector<int64_t>{0, 9, 9, 0, 0, 9}));
  EXPECT_EQ(windows({{"use_sliding_window", false}, {"layer_types", {f, f, f, f, f, f}}}), none);

  for (const Json& bad : {Json{f, s}, Json{f, f, f, f, f, "chunked_attention"}, Json{1}}) {
    const std::string error = ErrorOf([&] { windows({{"use_sliding_window", true}, {"layer_types", bad}}); });
    EXPECT_TRUE(error.starts_with("config.json: layer_types: expected ")) << error;
  }
  const std::string contradiction = ErrorOf([&] {
    windows({{"use_sliding_window", false}, {"layer_types", {f, f, f, f, f, s}}});
  });
  EXPECT_TRUE(contradiction.starts_with("config.json: layer_types: ")) << contradiction;
  const std::string null =
      ErrorOfParsing(With(kQwen2Name, {{"use_sliding_window", true}, {"sliding_window", nullptr}}));
  EXPECT_TRUE(null.starts_with("config.json: sliding_window: ")) << null;
}

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
