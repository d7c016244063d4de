#include "cli/device_session.h"

#include "base/error.h"
#include "base/units.h"
#include "cli/terminal.h"
#include "device/emulated.h"
#include "experts/policy.h"

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

}  // namespace

void DeviceOptions::Register(CLI::App& verb) {
  verb.add_option("--device", device,
                  "what computes beside the CPU; emulated: a GPU played by the CPU, for tests")
      ->check(CLI::IsMember({"auto", "cpu", "emulated"}))
      ->capture_default_str();
  verb.add_option("--policy", policy, "who computes which experts")
      ->check(CLI::IsMember(std::vector<std::string>(PolicyNames().begin(), PolicyNames().end())))
      ->capture_default_str();
  verb.add_option("--gpu-memory", gpu_memory, "memory of the device that may be used")->type_name("SIZE");
  verb.add_option("--hardware", hardware, "machine whose speeds the policy counts on with an emulated device")
      ->capture_default_str();
  verb.add_option("--adversary", adversary,
                  "seed of the order in which an emulated device runs what may run (default: as it came)")
      ->type_name("SEED");
}

DeviceSession::DeviceSession(const DeviceOptions& options, Session& session) {
  if (options.device != "emulated") {
    if (!options.gpu_memory.empty()) {
      throw Error("--gpu-memory: expected a device to use it on (--device emulated), got --device {}",
                  options.device);
    }
    return;
  }
  if (options.gpu_memory.empty()) {
    throw Error("--device emulated: expected --gpu-memory, the memory it has, got none");
  }
  setup_.memory_bytes = ParseBytes(options.gpu_memory, "--gpu-memory");
  setup_.make_policy = [name = options.policy](const PolicyGeometry& geometry, const CostModel& cost) {
    return MakePolicy(name, geometry, cost);
  };
  setup_.cost = CostOn(FindHardware(options.hardware), TypicalFfn(session.model().weights));
  device_ = OpenEmulatedDevice({.memory_bytes = setup_.memory_bytes,
                                .adversary_seed = options.adversary,
                                .pool = &session.pool(),
                                .drop_wait = {}},
                               session.kernels());
  setup_.device = device_.get();
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
