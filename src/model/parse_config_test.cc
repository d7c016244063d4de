// config.json to ModelSpec, field by field: what is missing, wrong or unknown is refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/arch/common.h"
#include "model/model.h"
#include "model/test_configs.h"

namespace fiddler {
namespace {

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

// transformers: absent is the family's default, null is one KV head for each head.
TEST(ParseConfigTest, NullKvHeadsAreAsManyAsHeads) {
  EXPECT_EQ(Parse(With(kMixtralName, {{"num_key_value_heads", nullptr}})).attention.num_kv_heads, 32);
  EXPECT_EQ(Parse(With(kMixtralName, {{"num_key_value_heads", "absent"}})).attention.num_kv_heads, 8);
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

}  // namespace
}  // namespace fiddler
