#include "cli/device_session.h"

#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/timing.h"
#include "base/units.h"
#include "calibrate/calibration.h"
#include "cli/gpu.h"
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
std::optional<CostModel> Calibrated(const Session& session, Device& device, const SlicedFfn& expert) {
  if (device.name() == kEmulatedDeviceName) return std::nullopt;
  const HardwareKey hardware = WithDevice(session.hardware_key(), device);
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

// What the policy counts on, and what that is called.
std::pair<CostModel, std::string> ChooseCost(const DeviceOptions& options, const Session& session,
                                             Device& device) {
  const SlicedFfn& expert = TypicalFfn(session.model().weights);
  if (!options.hardware.empty()) {
    const HardwareProfile hardware = ChooseHardware(options.hardware);
    return {CostOn(hardware, expert), hardware.name};
  }
  if (std::optional<CostModel> measured = Calibrated(session, device, expert))
    return {*measured, "calibrated"};
  const HardwareProfile& hardware = HardwareLike(device.name());
  if (device.name() != kEmulatedDeviceName) {
    Note("note: {} is taken to be as fast as {}: 'fiddler calibrate {}' measures what it costs",
         device.name(), hardware.name, session.config().name);
  }
  return {CostOn(hardware, expert), hardware.name};
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

// Of those given, the ones that say how a device is used.
std::vector<const char*> OptionsForDevices(const DeviceOptions& options) {
  const std::pair<const char*, bool> all[] = {{"--gpu-memory", !options.gpu_memory.empty()},
                                              {"--policy", !options.policy.empty()},
                                              {"--hardware", !options.hardware.empty()},
                                              {"--popularity", !options.popularity.empty()},
                                              {"--adversary", options.adversary.has_value()}};
  std::vector<const char*> given;
  for (const auto& [name, is_given] : all) {
    if (is_given) given.push_back(name);
  }
  return given;
}

}  // namespace

void DeviceOptions::Register(CLI::App& verb) {
  verb.add_option("--device", device,
                  "what computes beside the CPU; auto: a GPU, if there is one; cuda: a GPU for certain; "
                  "emulated: a GPU played by the CPU, for tests")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "emulated"}))
      ->capture_default_str();
  verb.add_option("--policy", policy, "who computes which experts")
      ->check(CLI::IsMember(std::vector<std::string>(PolicyNames().begin(), PolicyNames().end())))
      ->default_str("balanced");
  verb.add_option("--gpu-memory", gpu_memory,
                  "memory of the device that may be used (default: all that is free)")
      ->type_name("SIZE");
  verb.add_option("--hardware", hardware,
                  "machine whose speeds the policy counts on (default: what calibrate measured, or else the "
                  "built-in machine most like this one)")
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
  CheckGpuMemory(device, gpu_memory);
  if (device == "cuda" && adversary)
    throw Error("--adversary: expected --device emulated, got --device cuda");
  if (device != "cpu") return;
  for (const char* name : OptionsForDevices(*this)) {
    throw Error("{}: expected a device to use it on, got --device {}", name, device);
  }
}

DeviceSession::DeviceSession(const DeviceOptions& options, Session& session)
    : options_(options), session_(session) {
  if (options.device == "emulated") {
    device_ = OpenEmulatedDevice({.memory_bytes = ParseBytes(options.gpu_memory, "--gpu-memory"),
                                  .adversary_seed = options.adversary,
                                  .pool = &session.pool(),
                                  .drop_wait = {}},
                                 session.kernels());
  } else {
    device_ = OpenGpu(options.device, options.gpu_memory);
  }
  if (device_) {
    if (options.adversary && options.device != "emulated") {
      Note("note: the device is not emulated, so --adversary decides nothing");
    }
    setup_.memory_bytes = device_->memory().cap_bytes;
    return;
  }
  for (const char* name : OptionsForDevices(options)) {
    Note("note: no GPU is used, so {} decides nothing", name);
  }
}

DeviceBudget DeviceSession::budget() const {
  return {.bytes = setup_.memory_bytes, .is_host_memory = options_.device == "emulated"};
}

void DeviceSession::SetUp() {
  if (!device_) return;
  const std::string name = options_.policy.empty() ? "balanced" : options_.policy;
  setup_.device = device_.get();
  setup_.make_policy = [name](const PolicyGeometry& geometry, const CostModel& cost) {
    return MakePolicy(name, geometry, cost);
  };
  std::tie(setup_.cost, counts_on_) = ChooseCost(options_, session_, *device_);
  setup_.popularity = ChoosePopularity(options_, session_);
  pin_ = std::make_unique<BackgroundPin>(*device_, session_.model().host_experts->memory());
}

OrderedJson DeviceSession::FinishPinning() {
  double seconds = 0;
  std::string error;
  seconds = SecondsOf([&] { error = pin_->Finish(); });
  OrderedJson pinned = {{"bytes", pin_->pinned_bytes()}, {"seconds", seconds}};
  if (!error.empty()) pinned["error"] = error;
  return pinned;
}

void DeviceSession::NotePinning() {
  if (!pin_ || !pin_->failed()) return;
  Note("note: {} of {} of the experts are pinned, copies of the others are slower: {}",
       FormatBytes(pin_->pinned_bytes()), FormatBytes(pin_->bytes()), pin_->Finish());
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
