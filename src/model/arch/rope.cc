#include "model/arch/rope.h"

#include <cmath>

#include "base/error.h"

namespace fiddler {
namespace {

constexpr double kMaxFactor = 1e6;
constexpr double kMaxTheta = 1e15;

// YaRN's correction of attention temperature for a stretch by `factor` (arXiv 2309.00071, section 3.4).
double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double YarnAttentionFactor(ConfigReader& rope, double factor) {
  if (rope.Has("attention_factor")) return rope.Number("attention_factor", 1e-3, 1e3);
  const double mscale = rope.Number("mscale", 0, kMaxFactor, 0);
  const double mscale_all_dim = rope.Number("mscale_all_dim", 0, kMaxFactor, 0);
  if (mscale != 0 && mscale_all_dim != 0)
    return YarnScale(factor, mscale) / YarnScale(factor, mscale_all_dim);
  return YarnScale(factor, 1);
}

double OriginalContext(ConfigReader& config, ConfigReader& rope, int64_t max_positions) {
  constexpr std::string_view kField = "original_max_position_embeddings";
  const double in_rope = rope.Number(kField, 1, 1e12, static_cast<double>(max_positions));
  return config.Number(kField, 1, 1e12, in_rope);  // the top level wins
}

double NonZeroOr(double value, double otherwise) { return value != 0 ? value : otherwise; }

void ParseYarn(ConfigReader& config, ConfigReader& rope, int64_t max_positions, RopeSpec& spec) {
  spec.scaling = RopeSpec::Scaling::kYarn;
  spec.original_context = OriginalContext(config, rope, max_positions);
  spec.factor =
      rope.Number("factor", 1e-3, kMaxFactor, static_cast<double>(max_positions) / spec.original_context);
  spec.beta_fast = NonZeroOr(rope.Number("beta_fast", 0, kMaxFactor, 0), 32);
  spec.beta_slow = NonZeroOr(rope.Number("beta_slow", 0, kMaxFactor, 0), 1);
  spec.truncate = rope.Boolean("truncate", true);
  spec.attention_factor = YarnAttentionFactor(rope, spec.factor);
}

void ParseLlama3(ConfigReader& config, ConfigReader& rope, int64_t max_positions, RopeSpec& spec) {
  spec.scaling = RopeSpec::Scaling::kLlama3;
  spec.original_context = OriginalContext(config, rope, max_positions);
  spec.factor = rope.Number("factor", 1e-3, kMaxFactor);
  spec.low_frequency = rope.Number("low_freq_factor", 1e-3, kMaxFactor);
  spec.high_frequency = rope.Number("high_freq_factor", 1e-3, kMaxFactor);
  if (spec.high_frequency <= spec.low_frequency) {
    throw Error("{}: high_freq_factor: expected more than low_freq_factor ({}), got {}", rope.source(),
                spec.low_frequency, spec.high_frequency);
  }
}

}  // namespace

RopeSpec ParseRope(ConfigReader& config, int64_t head_dim, int64_t max_positions, double default_theta) {
  const Json* scaling = config.Object("rope_scaling");
  const Json* parameters = config.Object("rope_parameters");
  const bool use_scaling = scaling != nullptr && !scaling->empty();  // replaces rope_parameters as a whole
  const Json none = Json::object();
  const Json& fields = use_scaling ? *scaling : parameters != nullptr ? *parameters : none;
  ConfigReader rope(fields, config.source() + (use_scaling ? ": rope_scaling" : ": rope_parameters"),
                    config.tolerated());

  RopeSpec spec;
  spec.theta = rope.Number("rope_theta", 1.001, kMaxTheta,
                           config.Number("rope_theta", 1.001, kMaxTheta, default_theta));
  spec.rotary_dim = head_dim;
  rope.MustBe("partial_rotary_factor",
              1.0);  // transformers ignores or rejects any other value for these families
  config.MustBe("partial_rotary_factor", 1.0);

  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  rope.Ignore("type");
  if (type == "linear") {
    spec.scaling = RopeSpec::Scaling::kLinear;
    spec.factor = rope.Number("factor", 1e-3, kMaxFactor);
  } else if (type == "llama3") {
    ParseLlama3(config, rope, max_positions, spec);
  } else if (type == "yarn") {
    ParseYarn(config, rope, max_positions, spec);
  } else if (type != "default") {
    rope.Fail("rope_type", "one of default, linear, llama3, yarn", type);
  }
  rope.RefuseUnread();
  return spec;
}

}  // namespace fiddler
