#include "cli/device_session.h"

#include "base/error.h"
#include "base/units.h"
#include "calibrate/calibration.h"
#include "cli/simulation.h"
#include "cli/terminal.h"
#include "device/emulated.h"
#include "experts/policy.h"
#include "experts/popularity.h"

namespace fiddler {
namespace {

double HitRate(const ExpertTraffic& traffic) {
  const int64_t all = traffic.resident + traffic.fetched + traffic.cpu;
  return all == 0 ? 0 : static_cast<double>(traffic.resident) / static_cast<double>(all);
}

// What an emulated GPU is taken for where nobody measured it or said otherwise.
constexpr std::string_view kAssumedHardware = "rtx4090-ddr5";

CostModel CostOn(const HardwareProfile& hardware, const SlicedFfn& expert) {
  if (!hardware.has_gpu()) {
    throw Error("--hardware: expected a machine with a GPU, got '{}', which has none", hardware.name);
  }
  const auto weights = static_cast<double>(3 * expert.hidden * expert.slice_neurons);
  return MakeCostModel(hardware,
                       {.bytes = static_cast<double>(expert.slice_bytes()), .flops_per_token = 2 * weights});
}

// What calibrate measured of this machine with this device, for slices like these; nothing if there is no
// such entry, or, with a note, if its file is damaged; nothing of the emulated device: the one that is
// calibrated computes on a thread of its own, the one that runs computes on the session's pool.
std::optional<CostModel> Calibrated(const Session& session, const Device& device, const SlicedFfn& expert) {
  if (device.name() == kEmulatedDeviceName) return std::nullopt;
  HardwareKey hardware = session.hardware_key();
  hardware.device = device.name();
  const bool rounded = session.arithmetic() == Arithmetic::kFast;
  try {
    std::optional<CostModel> cost =
        FindCalibration(hardware,
                        {.hidden = expert.hidden,
                         .slice_neurons = expert.slice_neurons,
                         .format = expert.format,
                         .rounding = rounded ? FastRounding(expert.format) : Rounding::kNone},
                        DefaultCalibrationPath());
    return cost && cost->has_gpu ? cost : std::nullopt;
  } catch (const Error& error) {
    Note("note: {}; going on without it", error.what());
    return std::nullopt;
  }
}

CostModel ChooseCost(const DeviceOptions& options, const Session& session, const Device& device) {
  const SlicedFfn& expert = TypicalFfn(session.model().weights);
  if (!options.hardware.empty()) return CostOn(ChooseHardware(options.hardware), expert);
  if (std::optional<CostModel> measured = Calibrated(session, device, expert)) return *measured;
  return CostOn(FindHardware(kAssumedHardware), expert);
}

// Tokens that chose an expert, [num_layers * num_experts]; empty if nothing is known.
std::vector<int64_t> ChoosePopularity(const DeviceOptions& options, const Session& session) {
  std::filesystem::path path = options.popularity;
  if (path.empty()) {
    path = session.config().directory / "popularity.json";
    std::error_code status;
    if (session.config().directory.empty() || !std::filesystem::exists(path, status)) return {};
  }
  const ModelSpec& spec = session.spec();
  const ExpertPopularity popularity = ReadPopularity(path);
  const auto moe_layers = std::ranges::count_if(spec.layers, &LayerSpec::is_moe);
  if (popularity.layers != moe_layers || popularity.experts != spec.moe.num_experts) {
    throw Error("{}: expected counts of {} layers of {} experts, got {} of {}", path.string(), moe_layers,
                spec.moe.num_experts, popularity.layers, popularity.experts);
  }
  std::vector<int64_t> counts;
  int64_t moe_layer = 0;
  for (const LayerSpec& layer : spec.layers) {
    for (int64_t expert = 0; expert < spec.moe.num_experts; ++expert) {
      counts.push_back(layer.is_moe ? popularity.Count(moe_layer, expert) : 0);
    }
    moe_layer += layer.is_moe ? 1 : 0;
  }
  return counts;
}

}  // namespace

void DeviceOptions::Register(CLI::App& verb) {
  verb.add_option("--device", device,
                  "what computes beside the CPU; emulated: a GPU played by the CPU, for tests")
      ->check(CLI::IsMember({"auto", "cpu", "emulated"}))
      ->capture_default_str();
  verb.add_option("--policy", policy, "who computes which experts")
      ->check(CLI::IsMember(std::vector<std::string>(PolicyNames().begin(), PolicyNames().end())))
      ->default_str("balanced");
  verb.add_option("--gpu-memory", gpu_memory, "memory of the device that may be used")->type_name("SIZE");
  verb.add_option("--hardware", hardware,
                  "machine whose speeds the policy counts on (default: an emulated device is taken for an "
                  "rtx4090-ddr5)")
      ->type_name("NAME|FILE");
  verb.add_option("--popularity", popularity,
                  "counts of profile, for which experts are on the device at first (default: popularity.json "
                  "beside the weights)")
      ->type_name("FILE");
  verb.add_option("--adversary", adversary,
                  "seed of the order in which an emulated device runs what may run (default: as it came)")
      ->type_name("SEED");
}

void DeviceOptions::Check() const {
  if (!hardware.empty()) ChooseHardware(hardware);
  if (!popularity.empty()) ReadPopularity(popularity);
  if (device == "emulated") {
    if (gpu_memory.empty()) {
      throw Error("--device emulated: expected --gpu-memory, the memory it has, got none");
    }
    if (EmulatedBytes() == 0) throw Error("--gpu-memory: expected more than 0, got {}", gpu_memory);
    return;
  }
  const std::pair<const char*, bool> for_devices[] = {{"--gpu-memory", !gpu_memory.empty()},
                                                      {"--policy", !policy.empty()},
                                                      {"--hardware", !hardware.empty()},
                                                      {"--popularity", !popularity.empty()},
                                                      {"--adversary", adversary.has_value()}};
  for (const auto& [name, given] : for_devices) {
    if (!given) continue;
    if (device == "auto") {
      Note("note: no GPU is used, so {} decides nothing", name);
    } else {
      throw Error("{}: expected a device to use it on, got --device {}", name, device);
    }
  }
}

uint64_t DeviceOptions::EmulatedBytes() const {
  return device == "emulated" ? ParseBytes(gpu_memory, "--gpu-memory") : 0;
}

DeviceSession::DeviceSession(const DeviceOptions& options, Session& session) {
  setup_.memory_bytes = options.EmulatedBytes();
  if (setup_.memory_bytes == 0) return;
  const std::string name = options.policy.empty() ? "balanced" : options.policy;
  setup_.make_policy = [name](const PolicyGeometry& geometry, const CostModel& cost) {
    return MakePolicy(name, geometry, cost);
  };
  device_ = OpenEmulatedDevice({.memory_bytes = setup_.memory_bytes,
                                .adversary_seed = options.adversary,
                                .pool = &session.pool(),
                                .drop_wait = {}},
                               session.kernels());
  setup_.device = device_.get();
  setup_.cost = ChooseCost(options, session, *device_);
  setup_.popularity = ChoosePopularity(options, session);
}

OrderedJson DescribeTraffic(const ExpertTraffic& traffic) {
  return {{"resident", traffic.resident},
          {"fetched", traffic.fetched},
          {"cpu", traffic.cpu},
          {"idle_copies", traffic.idle_copies},
          {"hit_rate", HitRate(traffic)}};
}

void NoteTraffic(const ExpertTraffic& traffic) {
  Note("slices of experts: {} in device memory ({:.1f}%), {} fetched, {} on the CPU", traffic.resident,
       100 * HitRate(traffic), traffic.fetched, traffic.cpu);
}

}  // namespace fiddler
