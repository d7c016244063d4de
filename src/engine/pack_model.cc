#include "engine/pack_model.h"

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/units.h"
#include "engine/expert_file.h"
#include "engine/weight_packer.h"

namespace fiddler {
namespace {

// Better a clear word now than the out-of-memory killer half-way.
void RequireRoom(const Model& model, const PackFormat& format, uint64_t bytes, uint64_t usable) {
  if (bytes <= usable) return;
  std::string fitting;
  for (const Quantization smaller : {Quantization::kInt8, Quantization::kInt4}) {
    if (smaller <= format.quantization) continue;
    const uint64_t needed =
        LayOut(model, {.quantization = smaller, .slice_neurons = format.slice_neurons}).bytes;
    if (needed > usable || !fitting.empty()) continue;
    fitting = fmt::format("; --quant {} needs {}", QuantizationName(smaller), FormatBytes(needed));
  }
  throw Error("{}: weights: expected {} of free memory, got {}{}", model.config.name, FormatBytes(bytes),
              FormatBytes(usable), fitting);
}

// Reads and packs everything of the layout that lies in memory.
void PackMemory(const Model& model, const PackLayout& layout, std::byte* memory, bool release,
                ThreadPool& pool, Progress& progress) {
  std::vector<PackTask> tasks;
  for (const PackLayout::Matrix& matrix : layout.matrices) AddTasks(matrix, tasks);
  for (const PackLayout::Ffn& ffn : layout.ffns) AddTasks(ffn, tasks);
  const std::vector<size_t> ahead = TasksAhead(tasks);
  const WeightPacker packer(*model.source, release, pool.num_threads(), tasks);
  uint64_t source_bytes = 0;
  for (const PackTask& task : tasks) source_bytes += task.bytes();
  progress.Start("loading weights", source_bytes);
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t index, int worker) {
    const auto i = static_cast<size_t>(index);
    for (size_t next = i == 0 ? 0 : ahead[i - 1]; next < ahead[i]; ++next) packer.Prefetch(tasks[next]);
    packer.Run(tasks[i], worker, memory + tasks[i].offset());
    progress.Advance(tasks[i].bytes());
  });
  progress.Finish();
}

uint64_t SourceBytes(const PackLayout& layout) {
  uint64_t bytes = 0;
  for (const PackLayout::Matrix& matrix : layout.matrices) bytes += matrix.from->bytes();
  for (const PackLayout::Ffn& ffn : layout.ffns) {
    bytes += ffn.from->gate.bytes() + ffn.from->up.bytes() + ffn.from->down.bytes();
  }
  return bytes;
}

}  // namespace

PackedModel PackModel(const Model& model, const PackOptions& options, ThreadPool& pool, Progress& progress) {
  const ExpertPlace place = options.experts ? ExpertPlace::kElsewhere : ExpertPlace::kMemory;
  const uint64_t bytes = LayOut(model, options.format, nullptr, place).bytes;
  const uint64_t usable = options.usable_memory ? *options.usable_memory : UsableMemoryBytes();

  PackedModel packed;
  packed.spec = model.spec();
  std::optional<PackedFile> file;
  HugePageBuffer slots;
  if (options.experts) {
    const uint64_t slot_bytes = ExpertSlotBytes(model, options.format);
    slots = HugePageBuffer(static_cast<uint64_t>(options.experts->slots) * slot_bytes,
                           model.config.name + ": experts");
    slots.Interleave();
    file = FindOrPackExperts(model, options.format, options.experts->file, slots.bytes(), pool, progress);
  } else {
    RequireRoom(model, options.format, bytes, usable);
  }
  packed.memory = HugePageBuffer(bytes, model.config.name + ": weights");
  packed.memory.Interleave();
  std::byte* const memory = packed.memory.bytes().data();
  PackLayout layout = LayOut(model, options.format, memory, place);
  const bool release = file || bytes + SourceBytes(layout) > usable;
  PackMemory(model, layout, memory, release, pool, progress);
  packed.weights = std::move(layout.weights);
  ExpertLayers layers = ExpertLayersOf(packed.weights);
  packed.host_experts =
      file ? std::make_unique<HostExperts>(std::move(layers), *std::move(file), std::move(slots),
                                           ExpertReader::Options{.affinity = pool.caller_affinity()})
           : std::make_unique<HostExperts>(std::move(layers));
  return packed;
}

}  // namespace fiddler
