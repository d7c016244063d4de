#include "model/config_reader.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/json.h"

namespace fiddler {
namespace {

// Fields that Hugging Face writes into every config.json and that do not change a forward pass: bookkeeping,
// training, generation defaults, alternatives of implementation.
constexpr std::string_view kHarmless[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "experts_implementation",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "max_length",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
};

bool IsHarmless(std::string_view field) {
  return std::find(std::begin(kHarmless), std::end(kHarmless), field) != std::end(kHarmless);
}

bool IsInteger(const Json& value, int64_t min, int64_t max) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    return max >= 0 && number <= static_cast<uint64_t>(max) &&
           (min <= 0 || number >= static_cast<uint64_t>(min));
  }
  return value.is_number_integer() && value.get<int64_t>() >= min && value.get<int64_t>() <= max;
}

// A name that comes from the file: as it is where it looks like a field, else quoted and escaped.
std::string PrintableName(std::string_view name) {
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  constexpr size_t kMaxLength = 80;
  const bool plain = name.size() <= kMaxLength && std::all_of(name.begin(), name.end(), is_plain);
  return plain ? std::string(name) : Printable(Json(name));
}

}  // namespace

ConfigReader::ConfigReader(const Json& config, std::string source, std::span<const std::string> tolerated)
    : config_(config), source_(std::move(source)), tolerated_(tolerated) {
  if (!config.is_object()) throw Error("{}: expected a JSON object, got {}", source_, config.type_name());
}

void ConfigReader::Fail(std::string_view field, std::string_view expected, const Json& got) const {
  throw Error("{}: {}: expected {}, got {}", source_, PrintableName(field), expected, Printable(got));
}

const Json* ConfigReader::Given(std::string_view field) {
  read_.emplace(field);
  const auto it = config_.find(field);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}

const Json& ConfigReader::Required(std::string_view field, std::string_view expected) {
  const Json* value = Given(field);
  if (value == nullptr)
    throw Error("{}: {}: expected {}, got nothing: the field is missing", source_, field, expected);
  return *value;
}

bool ConfigReader::IsNull(std::string_view field) const {
  const auto it = config_.find(field);
  return it != config_.end() && it->is_null();
}

bool ConfigReader::Has(std::string_view field) { return Given(field) != nullptr; }

bool ConfigReader::IsNull(std::string_view field) {
  return Given(field) == nullptr && config_.contains(field);
}

int64_t ConfigReader::Integer(std::string_view field, int64_t min, int64_t max) {
  const std::string expected = fmt::format("an integer from {} to {}", min, max);
  const Json& value = Required(field, expected);
  if (!IsInteger(value, min, max)) Fail(field, expected, value);
  return value.get<int64_t>();
}

int64_t ConfigReader::Integer(std::string_view field, int64_t min, int64_t max, int64_t otherwise) {
  return Has(field) ? Integer(field, min, max) : otherwise;
}

double ConfigReader::Number(std::string_view field, double min, double max) {
  const std::string expected = fmt::format("a number from {} to {}", min, max);
  const Json& value = Required(field, expected);
  if (!value.is_number() || !(value.get<double>() >= min && value.get<double>() <= max))
    Fail(field, expected, value);
  return value.get<double>();
}

double ConfigReader::Number(std::string_view field, double min, double max, double otherwise) {
  return Has(field) ? Number(field, min, max) : otherwise;
}

bool ConfigReader::Boolean(std::string_view field, bool otherwise) {
  const Json* value = Given(field);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) Fail(field, "true or false", *value);
  return value->get<bool>();
}

std::string ConfigReader::String(std::string_view field, std::string_view otherwise) {
  const Json* value = Given(field);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) Fail(field, "a string", *value);
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::Integers(std::string_view field, int64_t min, int64_t max) {
  const Json* value = Given(field);
  if (value == nullptr) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<int64_t> numbers;
  for (const Json& item : list) {
    if (!IsInteger(item, min, max)) Fail(field, fmt::format("integers from {} to {}", min, max), *value);
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

std::vector<std::string> ConfigReader::Strings(std::string_view field) {
  const Json* value = Given(field);
  if (value == nullptr) return {};
  std::vector<std::string> strings;
  if (!value->is_array()) Fail(field, "a list of strings", *value);
  for (const Json& item : *value) {
    if (!item.is_string()) Fail(field, "a list of strings", *value);
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

const Json* ConfigReader::Object(std::string_view field) {
  const Json* value = Given(field);
  if (value != nullptr && !value->is_object()) Fail(field, "an object", *value);
  return value;
}

void ConfigReader::MustBe(std::string_view field, const Json& expected) {
  const Json* value = Given(field);
  if (value != nullptr && *value != expected) Fail(field, expected.dump(), *value);
}

void ConfigReader::Ignore(std::string_view field) { read_.emplace(field); }

void ConfigReader::RefuseUnread() const {
  for (const auto& [field, value] : config_.items()) {
    if (value.is_null() || read_.contains(field) || IsHarmless(field)) continue;
    if (std::find(tolerated_.begin(), tolerated_.end(), field) != tolerated_.end()) continue;
    Fail(field,
         "no such field: it could change the result and is not supported "
         "(--ignore-config-field NAME runs without it)",
         value);
  }
}

}  // namespace fiddler
