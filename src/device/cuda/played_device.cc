#include "device/cuda/played_device.h"

#include <algorithm>
#include <type_traits>
#include <variant>

#include "base/error.h"
#include "device/cuda/ops.h"
#include "device/emulated_ops.h"

namespace fiddler::cuda {
namespace {

using emulated::EmulatedMemory;
using emulated::EmulatedOps;
using emulated::FfnWork;
using emulated::Operation;

class Context final : public OpContext {
 public:
  const void* ToDevice(const void* data, size_t bytes) override {
    const auto* const from = static_cast<const std::byte*>(data);
    arrays_.push_back(std::make_unique<std::byte[]>(bytes + 1));
    std::copy_n(from, bytes, arrays_.back().get());
    return arrays_.back().get();
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> arrays_;
};

class PlayedKernels final : public EmulatedOps {
 public:
  PlayedKernels(const EmulatedMemory& memory, const CpuKernels& kernels, const emulated::Workers& workers,
                const emulation::MachineOptions& options, int num_sms, std::set<emulation::Site>* sites)
      : EmulatedOps(memory, kernels, workers), num_sms_(num_sms), sites_(sites) {
    machine_.options = options;
  }

  void Run(const Operation& operation) override {
    Context context;
    context.stream = &machine_;
    context.num_sms = num_sms_;
    context.scratch = Host(scratch_);
    context.scratch_bytes = scratch_bytes_;
    if (scratch_bytes_ > 0) std::fill_n(context.scratch, scratch_bytes_, kPoison);
    ++machine_.options.seed;
    try {
      std::visit([&](const auto& args) { Do(context, args); }, operation);
    } catch (const std::runtime_error& error) {
      throw Error("{}", error.what());
    }
    if (sites_ != nullptr) sites_->insert(machine_.sites().begin(), machine_.sites().end());
  }

  void SetScratch(FiddlerAddress address, uint64_t bytes) override {
    scratch_ = address;
    scratch_bytes_ = bytes;
  }

 private:
  static constexpr std::byte kPoison{0xff};

  // Where the host has it; null for no address.
  std::byte* Host(FiddlerAddress address) const {
    return address == 0 ? nullptr : memory().Translate(address, 1, 1, "cuda");
  }
  template <typename... Addresses>
  void Translate(Addresses&... addresses) const {
    ((addresses = reinterpret_cast<FiddlerAddress>(Host(addresses))), ...);
  }
  void Translate(FiddlerBatch& batch) const {
    Translate(batch.positions, batch.sequences, batch.block_tables);
  }

  void Do(OpContext& context, FiddlerRmsNorm args) {
    Translate(args.x, args.y, args.weight);
    RmsNorm(context, args);
  }
  void Do(OpContext& context, FiddlerMatMul args) {
    Translate(args.x, args.row_index, args.w.data, args.bias, args.y);
    MatMul(context, args);
  }
  void Do(OpContext& context, FiddlerRotateStore args) {
    Translate(args.batch);
    Translate(args.q, args.k, args.v, args.q_norm, args.k_norm, args.cosine, args.sine, args.kv.layer);
    RotateStore(context, args);
  }
  void Do(OpContext& context, FiddlerAttend args) {
    Translate(args.batch);
    Translate(args.q, args.out, args.kv.layer);
    Attend(context, args);
  }
  void Do(OpContext& context, FiddlerAdd args) {
    Translate(args.x, args.y);
    Add(context, args);
  }
  void Do(OpContext& context, FiddlerSigmoid args) {
    Translate(args.x);
    Sigmoid(context, args);
  }
  void Do(OpContext& context, FiddlerRoute args) {
    Translate(args.logits, args.experts, args.weights);
    Route(context, args);
  }
  void Do(OpContext& context, const std::shared_ptr<const FfnWork>& work) {
    FiddlerFfn args = work->args;
    std::vector<FiddlerSlices> entries;
    for (const FfnWork::Slices& from : work->entries) {
      FiddlerSlices& entry = entries.emplace_back(from.args);
      entry.rows = from.has_rows ? from.rows.data() : nullptr;
      entry.weights = from.has_weights ? from.weights.data() : nullptr;
      Translate(entry.slice, entry.weights_on_device);
    }
    args.entries = entries.data();
    args.num_entries = std::ssize(entries);
    Translate(args.x, args.out);
    Ffn(context, args);
  }

  void Do(OpContext& context, const emulated::ReadProbe& probe) {
    cuda::ReadProbe(context, reinterpret_cast<FiddlerAddress>(Host(probe.data)), probe.bytes);
  }
  void Do(OpContext& context, const emulated::ProductProbe& probe) {
    cuda::ProductProbe(context, probe.rounds);
  }

  emulation::Machine machine_;
  const int num_sms_;
  std::set<emulation::Site>* const sites_;
  FiddlerAddress scratch_ = 0;
  uint64_t scratch_bytes_ = 0;
};

}  // namespace

emulated::OpsFactory PlayedOps(const emulation::MachineOptions& machine, int num_sms,
                               std::set<emulation::Site>* sites) {
  return [=](const EmulatedMemory& memory, const CpuKernels& kernels, const emulated::Workers& workers) {
    return std::make_unique<PlayedKernels>(memory, kernels, workers, machine, num_sms, sites);
  };
}

}  // namespace fiddler::cuda
