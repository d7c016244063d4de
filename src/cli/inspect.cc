// fiddler inspect: what a model is made of, and whether its files are whole. Reads no matrices.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/session.h"
#include "io/checkpoint.h"

namespace fiddler {
namespace {

struct InspectOptions {
  std::string model;
  std::vector<std::string> ignored_fields;
  std::string quantization;
  bool list_tensors = false;
  bool json = false;
};

// 0: every layer sees all positions.
int64_t LargestWindow(const ModelSpec& spec) {
  int64_t window = 0;
  for (const LayerSpec& layer : spec.layers) window = std::max(window, layer.sliding_window);
  return window;
}

OrderedJson Describe(const ModelConfig& config) {
  const ModelSpec& spec = config.spec;
  const ParameterCount count = CountParameters(spec);
  int64_t moe_layers = 0;
  for (const LayerSpec& layer : spec.layers) moe_layers += layer.is_moe ? 1 : 0;
  return {{"model", config.name},
          {"architecture", config.architecture->class_name},
          {"layers", spec.num_layers()},
          {"moe_layers", moe_layers},
          {"hidden", spec.hidden},
          {"heads", spec.attention.num_heads},
          {"kv_heads", spec.attention.num_kv_heads},
          {"head_dim", spec.attention.head_dim},
          {"experts", spec.moe.num_experts},
          {"experts_per_token", spec.moe.top_k},
          {"expert_intermediate", spec.moe.intermediate},
          {"shared_expert_intermediate", spec.moe.shared_intermediate},
          {"dense_intermediate", spec.dense_intermediate},
          {"vocab_size", spec.vocab_size},
          {"max_positions", spec.max_positions},
          {"sliding_window", LargestWindow(spec)},
          {"rope_theta", spec.rope.theta},
          {"router_renormalizes", spec.moe.renormalize},
          {"eos_tokens", spec.eos_tokens},
          {"tied_embeddings", spec.tied_embeddings},
          {"parameters", count.total},
          {"active_parameters", count.active},
          {"expert_parameters", count.experts}};
}

OrderedJson DescribeFiles(const Checkpoint& checkpoint, bool list_tensors) {
  OrderedJson files = OrderedJson::array();
  for (const SafetensorsFile& file : checkpoint.files()) files.push_back(file.file().path().string());
  OrderedJson bytes_by_type = OrderedJson::object();
  OrderedJson tensors = OrderedJson::array();
  for (const auto& [view, file] : checkpoint.tensors()) {
    const std::string type(DTypeName(view->dtype));
    bytes_by_type[type] = bytes_by_type.value(type, uint64_t{0}) + view->bytes.size();
    if (list_tensors) {
      tensors.push_back({{"name", view->name},
                         {"dtype", type},
                         {"shape", view->shape},
                         {"bytes", view->bytes.size()},
                         {"file", file->file().path().filename().string()}});
    }
  }
  OrderedJson description = {{"files", files},
                             {"tensor_count", checkpoint.tensors().size()},
                             {"bytes", checkpoint.total_bytes()},
                             {"bytes_by_dtype", bytes_by_type}};
  if (list_tensors) description["tensors"] = tensors;
  return description;
}

// What loading would make of the weights; a geometry's are taken to be BF16.
OrderedJson DescribePacking(const Model& model, Quantization quantization) {
  const PackLayout layout = LayOut(model, {.quantization = quantization});
  const PackedWeights& weights = layout.weights;
  const PackedLayer& layer = weights.layers.front();
  const SlicedFfn& ffn = TypicalFfn(weights);
  return {{"packed_bytes", layout.bytes},
          {"packed_expert_bytes", ExpertBytes(weights)},
          {"expert_format", FormatName(ffn.format)},
          {"attention_format", FormatName(layer.q.format)},
          {"head_format", FormatName(weights.head.format)},
          {"embedding_format", FormatName(weights.embedding.format)},
          {"slice_neurons", ffn.slice_neurons},
          {"slices_per_expert", ffn.num_slices()},
          {"slice_bytes", ffn.slice_bytes()}};
}

// A table for people: the facts one a line, tensors as columns.
void PrintText(const OrderedJson& description) {
  for (const auto& [key, value] : description.items()) {
    if (key == "tensors") continue;
    const bool is_bytes = key.ends_with("bytes");
    WriteOutput(fmt::format("{:<28}{}\n", key,
                            is_bytes            ? FormatBytes(value.get<uint64_t>())
                            : value.is_string() ? value.get<std::string>()
                                                : value.dump()));
  }
  if (!description.contains("tensors")) return;
  for (const OrderedJson& tensor : description["tensors"]) {
    WriteOutput(fmt::format("{:<72} {:<5} {:<20} {}\n", tensor["name"].get<std::string>(),
                            tensor["dtype"].get<std::string>(), tensor["shape"].dump(),
                            tensor["file"].get<std::string>()));
  }
}

void Inspect(const InspectOptions& options) {
  const ModelConfig config = ReadModelConfig(ResolveModel(options.model), options.ignored_fields);
  OrderedJson description = Describe(config);
  const Quantization quantization = ParseQuantization(options.quantization);
  if (config.directory.empty()) {
    description.update(DescribePacking(MakeDummyModel(config, 0, DType::kBF16), quantization));
  } else {
    const Model model = OpenModel(config);  // every tensor there, every shape right
    description.update(DescribePacking(model, quantization));
    description.update(DescribeFiles(static_cast<const Checkpoint&>(*model.source), options.list_tensors));
    description["unused_tensors"] = model.unused_tensors;
  }
  if (options.json) {
    WriteJson(description);
  } else {
    PrintText(description);
  }
}

}  // namespace

void RegisterInspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App& verb =
      *app.add_subcommand("inspect", "architecture, tensors and bytes of a model; checks that it is whole");
  verb.add_option("MODEL", options->model,
                  "Hugging Face model directory, config.json, built-in geometry, or demo")
      ->required();
  verb.add_option("--ignore-config-field", options->ignored_fields,
                  "accept this unsupported field of config.json")
      ->type_name("NAME")
      ->allow_extra_args(false);
  RegisterQuantization(verb, options->quantization);
  verb.add_flag("--tensors", options->list_tensors, "list every tensor");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Inspect(*options); });
}

}  // namespace fiddler
