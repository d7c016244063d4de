// Any bytes are either refused as a config.json with one clear line, or a ModelSpec that the engine can
// trust.
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "model/architecture.h"

namespace {

using namespace fiddler;

bool IsFinitePositive(double value) { return std::isfinite(value) && value > 0; }

void CheckSpec(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  CHECK(spec.hidden > 0 && spec.vocab_size > 0 && spec.max_positions > 0 && !spec.layers.empty());
  CHECK(attention.num_kv_heads > 0 && attention.num_heads % attention.num_kv_heads == 0);
  CHECK(attention.head_dim > 0 && attention.head_dim % 2 == 0);
  CHECK(!attention.clip_qkv || IsFinitePositive(*attention.clip_qkv));
  CHECK(spec.moe.top_k > 0 && spec.moe.top_k <= spec.moe.num_experts && spec.moe.intermediate > 0);
  for (const LayerSpec& layer : spec.layers) {
    CHECK(layer.is_moe || spec.dense_intermediate > 0);
    CHECK(layer.sliding_window >= 0);
  }
  CHECK(spec.rope.rotary_dim == attention.head_dim && spec.rope.theta > 1);
  CHECK(IsFinitePositive(spec.rope.factor) && IsFinitePositive(spec.rope.attention_factor));
  CHECK(spec.rms_norm_epsilon >= 0 && spec.rms_norm_epsilon <= 1);
  for (int32_t token : spec.eos_tokens) CHECK(token >= 0);

  const ParameterCount count = CountParameters(spec);  // UBSan watches for overflow
  CHECK(count.experts >= 0 && count.experts < count.total && count.active > 0);
}

void CheckMessage(std::string_view message) {
  CHECK(message.starts_with("input: "), "{}", message);
  for (const char c : message) CHECK(c >= ' ' && c <= '~', "not one line of ASCII: {}", message);
  CHECK(message.find("expected") != std::string::npos && message.find("got") != std::string::npos, "{}",
        message);
  CHECK(message.size() < 500, "{}", message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    CheckSpec(ParseConfig(ParseJson(text, "input"), "input"));
  } catch (const Error& error) {
    CheckMessage(error.what());
  }
  return 0;
}
