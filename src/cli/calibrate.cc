// fiddler calibrate: measures what slices of experts cost this machine, for the shape of a model's, and keeps
// the result where runs look for it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "calibrate/calibration.h"
#include "calibrate/fit_costs.h"
#include "cli/calibration_chart.h"
#include "cli/calibration_report.h"
#include "cli/commands.h"
#include "cli/gpu.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "device/emulated.h"
#include "engine/cpu_meter.h"
#include "engine/device_meter.h"

namespace fiddler {
namespace {

struct CalibrateOptions {
  std::string model = "mixtral-8x7b";
  std::vector<std::string> ignored_fields;
  int threads = 0;
  std::string device = "auto";
  std::string gpu_memory;
  double seconds = 30;
  std::string output;
  std::string svg;
  bool json = false;
};

// An expert, without data, in every format that the model can be loaded in: as stored, int8, int4.
std::vector<SlicedFfn> ExpertFormats(const CalibrateOptions& options) {
  ModelConfig config = ReadModelConfig(ResolveModel(options.model), options.ignored_fields);
  const Model model = config.directory.empty() ? MakeDummyModel(std::move(config), 0, DType::kBF16)
                                               : OpenModel(std::move(config));
  std::vector<SlicedFfn> formats;
  for (const Quantization quantization : {Quantization::kNone, Quantization::kInt8, Quantization::kInt4}) {
    const PackLayout layout = LayOut(model, {.quantization = quantization});
    formats.push_back(TypicalFfn(layout.weights));
  }
  return formats;
}

// Null: the CPU alone.
std::unique_ptr<Device> OpenDevice(const CalibrateOptions& options, const CpuKernels& kernels) {
  CheckGpuMemory(options.device, options.gpu_memory);
  if (options.device == "emulated") {
    // Without a pool it computes on a thread of its own: while the CPU does, as a GPU would.
    return OpenEmulatedDevice({.memory_bytes = ParseBytes(options.gpu_memory, "--gpu-memory"),
                               .adversary_seed = {},
                               .pool = nullptr,
                               .drop_wait = {}},
                              kernels);
  }
  std::unique_ptr<Device> device = OpenGpu(options.device, options.gpu_memory);
  if (!device && !options.gpu_memory.empty()) {
    throw Error("--gpu-memory: expected a device to use it on, got none with --device {}", options.device);
  }
  return device;
}

// `device` may be null.
std::vector<CalibratedSlice> Measure(std::span<const SlicedFfn> experts, const CpuKernels& kernels,
                                     ThreadPool& pool, Device* device, double seconds) {
  // Of experts of each format: with three formats, and what the runs need beside them, less than 1 GB.
  constexpr uint64_t kExpertBytes = 256 << 20;
  constexpr int kMinRounds = 3;
  constexpr double kTimings = 300;  // of the CPU: some ten rounds of ten in each format
  const double timed_seconds = std::min(0.05, seconds / kTimings);
  TerminalProgress progress(TerminalProgress::Unit::kSeconds);
  progress.Start("calibrating", static_cast<uint64_t>(std::ceil(seconds)));
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::unique_ptr<CpuMeter>> meters;
  for (const SlicedFfn& expert : experts) {
    meters.push_back(std::make_unique<CpuMeter>(expert, kernels, pool, Arithmetic::kFast, kCalibratedTokens,
                                                kExpertBytes, timed_seconds));
  }
  std::vector<std::unique_ptr<DeviceMeter>> device_meters;
  for (const std::unique_ptr<CpuMeter>& meter : meters) {
    if (!device) break;
    device_meters.push_back(std::make_unique<DeviceMeter>(*device, *meter, kCalibratedTokens, timed_seconds));
  }
  uint64_t reported = 0;
  for (int round = 0; round < kMinRounds || reported < static_cast<uint64_t>(seconds); ++round) {
    for (const std::unique_ptr<CpuMeter>& meter : meters) meter->Round();
    for (const std::unique_ptr<DeviceMeter>& meter : device_meters) meter->Round();
    const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    progress.Advance(static_cast<uint64_t>(passed) - reported);
    reported = static_cast<uint64_t>(passed);
  }
  progress.Finish();
  std::vector<CalibratedSlice> slices;
  for (size_t i = 0; i < experts.size(); ++i) {
    CalibratedSlice slice;
    slice.expert = experts[i];
    slice.rounding = FastRounding(experts[i].format);
    slice.cpu = meters[i]->Medians();
    if (device) slice.device = device_meters[i]->Medians();
    slice.cost = FitCostModel(slice.cpu, slice.device ? &*slice.device : nullptr,
                              static_cast<double>(experts[i].slice_bytes()));
    slices.push_back(std::move(slice));
  }
  return slices;
}

void Calibrate(const CalibrateOptions& options) {
  const std::vector<SlicedFfn> experts = ExpertFormats(options);
  const std::filesystem::path path =
      options.output.empty() ? DefaultCalibrationPath() : std::filesystem::path(options.output);
  const CpuKernels& kernels = BestKernels();
  const Topology topology = DiscoverTopology();
  ThreadPool pool(options.threads > 0 ? options.threads : topology.DefaultThreads(), topology);
  HardwareKey hardware = DescribeHardware(topology, pool.num_threads(), kernels.isa);
  const std::unique_ptr<Device> device = OpenDevice(options, kernels);
  if (device) hardware = WithDevice(std::move(hardware), *device);
  if (options.device == "emulated") {
    Note(
        "note: figures of an emulated device show that the code works, not what a GPU does; runs ignore "
        "them");
  }
  // Whether the file can be written, and read, is known before anything is measured.
  if (const std::string damage = StoreCalibrations({}, path); !damage.empty()) {
    Note("note: the file was damaged and is started over: {}", damage);
  }

  std::vector<CalibratedSlice> slices = Measure(experts, kernels, pool, device.get(), options.seconds);
  std::vector<Calibration> calibrations;
  calibrations.reserve(slices.size());
  for (const CalibratedSlice& slice : slices) {
    calibrations.push_back({.hardware = hardware,
                            .geometry = {.hidden = slice.expert.hidden,
                                         .slice_neurons = slice.expert.slice_neurons,
                                         .format = slice.expert.format,
                                         .rounding = slice.rounding},
                            .read_gbps = slice.cpu.read_gbps,
                            .peak_gops = slice.cpu.peak_gops,
                            .cost = slice.cost});
  }
  StoreCalibrations(calibrations, path);
  constexpr double kQuiet = 0.1;  // repeats on a machine that does nothing else differ by a few percent
  const double spread =
      std::ranges::max(slices, {}, [](const CalibratedSlice& slice) { return slice.cpu.spread; }).cpu.spread;
  if (spread > kQuiet) {
    Note("note: repeats differ by {:.0f}%: calibrate again when nothing else runs on the machine",
         100 * spread);
  }
  const std::string machine = fmt::format("{}, {} thread{}, {}, {} GiB RAM{}", hardware.cpu, hardware.threads,
                                          hardware.threads == 1 ? "" : "s", hardware.isa, hardware.ram_gib,
                                          device ? fmt::format("; {}", hardware.device) : "");
  if (!options.svg.empty()) WriteFileAtomically(options.svg, DrawCalibration(slices, machine));

  if (options.json) {
    OrderedJson json = {{"model", options.model},      {"cpu", hardware.cpu},
                        {"threads", hardware.threads}, {"isa", hardware.isa},
                        {"ram_gib", hardware.ram_gib}, {"device", hardware.device},
                        {"file", path.string()},       {"slices", OrderedJson::array()}};
    for (const CalibratedSlice& slice : slices) json["slices"].push_back(DescribeSlice(slice));
    return WriteJson(json);
  }
  WriteOutput(fmt::format("{}; slices of {}\n", machine, options.model));
  for (const CalibratedSlice& slice : slices) WriteOutput(SliceTable(slice));
  WriteOutput(fmt::format("kept in {}\n", path.string()));
}

}  // namespace

void RegisterCalibrate(CLI::App& app) {
  auto options = std::make_shared<CalibrateOptions>();
  CLI::App& verb =
      *app.add_subcommand("calibrate", "measure what experts cost this machine, for plans to use");
  verb.add_option("MODEL", options->model,
                  "whose experts' shape: directory, config.json, built-in geometry, or demo")
      ->capture_default_str();
  verb.add_option("--ignore-config-field", options->ignored_fields,
                  "accept this unsupported field of config.json")
      ->type_name("NAME")
      ->allow_extra_args(false);
  verb.add_option("-t,--threads", options->threads, "threads to compute with (default: one for each core)")
      ->check(CLI::Range(1, 1024));
  verb.add_option("--device", options->device,
                  "what computes beside the CPU; auto: a GPU, if there is one; cuda: a GPU for certain; "
                  "emulated: a GPU played by the CPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "emulated"}))
      ->capture_default_str();
  verb.add_option("--gpu-memory", options->gpu_memory,
                  "memory of the device that may be used (default: all that is free)")
      ->type_name("SIZE");
  verb.add_option("--seconds", options->seconds, "how long to measure, about")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  verb.add_option("--output", options->output,
                  "file to keep the result in (default: fiddler/calibration.json of the user's cache)");
  verb.add_option("--svg", options->svg, "file to draw the tables to");
  verb.add_flag("--json", options->json, "print one JSON object");
  verb.callback([options] { Calibrate(*options); });
}

}  // namespace fiddler
