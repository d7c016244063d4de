#include "engine/pack_model.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/units.h"

namespace fiddler {
namespace {

// What a task reads at most, if a panel allows: half of a core's L2, the other half is for what it writes.
constexpr uint64_t kTaskBytes = uint64_t{512} << 10;

// How far the disk is asked to be ahead of the tasks: enough requests to keep an NVMe drive busy, and no more
// than a small share of any machine's memory.
constexpr uint64_t kPrefetchBytes = uint64_t{64} << 20;

// Consecutive rows that one worker reads and packs: of a matrix, of the down matrix of an FFN, or of its gate
// and up matrices together.
struct Task {
  const PackLayout::Matrix* matrix = nullptr;
  const PackLayout::Ffn* ffn = nullptr;
  const StoredMatrix* from = nullptr;
  const StoredMatrix* up = nullptr;  // with `from` the gate
  int64_t first = 0;
  int64_t rows = 0;

  uint64_t bytes() const {
    return static_cast<uint64_t>(rows) * (from->row_bytes() + (up != nullptr ? up->row_bytes() : 0));
  }
};

// Cuts `task`, which covers all rows, into tasks of whole panels.
void AddTasks(Task task, int64_t rows_of_a_panel, std::vector<Task>& tasks) {
  const int64_t rows = task.rows;
  task.rows = rows_of_a_panel;
  const uint64_t panel_bytes = std::max<uint64_t>(1, task.bytes());
  const int64_t step =
      rows_of_a_panel * static_cast<int64_t>(std::max<uint64_t>(1, kTaskBytes / panel_bytes));
  for (task.first = 0; task.first < rows; task.first += step) {
    task.rows = std::min(step, rows - task.first);
    tasks.push_back(task);
  }
}

std::vector<Task> TasksOf(const PackLayout& layout) {
  std::vector<Task> tasks;
  for (const PackLayout::Matrix& matrix : layout.matrices) {
    AddTasks({.matrix = &matrix, .from = matrix.from, .rows = matrix.from->rows}, kPanelRows, tasks);
  }
  for (const PackLayout::Ffn& ffn : layout.ffns) {
    const FfnWeights& from = *ffn.from;
    AddTasks({.ffn = &ffn, .from = &from.gate, .up = &from.up, .rows = from.gate.rows}, kPanelRows / 2,
             tasks);
    AddTasks({.ffn = &ffn, .from = &from.down, .rows = from.down.rows}, kPanelRows, tasks);
  }
  return tasks;
}

class Packer {
 public:
  Packer(const WeightSource& source, std::byte* memory, bool release, int workers,
         std::span<const Task> tasks)
      : source_(source), memory_(memory), release_(release) {
    uint64_t largest = 0;
    for (const Task& task : tasks) largest = std::max(largest, task.bytes());
    for (int i = 0; i < workers; ++i) scratch_.push_back(std::make_unique<std::byte[]>(largest));
  }

  void Prefetch(const Task& task) const {
    ForEachPart(task, [&](const StoredMatrix& matrix, uint64_t offset, uint64_t bytes) {
      source_.Prefetch(matrix.tensor, offset, bytes);
    });
  }

  void Run(const Task& task, int worker) const {
    RowMajor rows[2];
    size_t count = 0;
    std::byte* free = scratch_[static_cast<size_t>(worker)].get();
    ForEachPart(task, [&](const StoredMatrix& matrix, uint64_t offset, uint64_t bytes) {
      source_.Read(matrix.tensor, offset, {free, bytes});
      if (release_) source_.Release(matrix.tensor, offset, bytes);
      rows[count++] = {.data = free, .dtype = matrix.dtype(), .rows = task.rows, .cols = matrix.cols};
      free += bytes;
    });
    if (task.matrix != nullptr) {
      PackRows(task, rows[0]);
    } else if (task.up != nullptr) {
      PackGateUp(task.ffn->to, task.first, rows[0], rows[1], memory_ + task.ffn->offset);
    } else {
      PackDown(task.ffn->to, task.first, rows[0], memory_ + task.ffn->offset);
    }
  }

 private:
  static void ForEachPart(const Task& task, const auto& body) {
    for (const StoredMatrix* matrix : {task.from, task.up}) {
      if (matrix == nullptr) continue;
      body(*matrix, matrix->OffsetOf(task.first), static_cast<uint64_t>(task.rows) * matrix->row_bytes());
    }
  }

  void PackRows(const Task& task, const RowMajor& rows) const {
    const PackedMatrix& to = task.matrix->to;
    const auto row_bytes = static_cast<int64_t>(task.from->row_bytes());
    for (int64_t begin = 0; begin < rows.rows; begin += kPanelRows) {
      const void* pointers[kPanelRows];
      const int64_t count = std::min(kPanelRows, rows.rows - begin);
      for (int64_t r = 0; r < count; ++r) {
        pointers[r] = static_cast<const std::byte*>(rows.data) + (begin + r) * row_bytes;
      }
      std::byte* panel = memory_ + task.matrix->offset + (task.first + begin) / kPanelRows * to.panel_bytes();
      PackPanel(to.format, rows.dtype, {pointers, static_cast<size_t>(count)}, rows.cols, panel);
    }
  }

  const WeightSource& source_;
  std::byte* const memory_;
  const bool release_;
  std::vector<std::unique_ptr<std::byte[]>> scratch_;  // one a worker
};

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
  if (fitting.empty()) fitting = "; models larger than memory are not supported yet";
  throw Error("{}: weights: expected {} of free memory, got {}{}", model.config.name, FormatBytes(bytes),
              FormatBytes(usable), fitting);
}

// For each task, the first one that is kPrefetchBytes ahead of it.
std::vector<size_t> TasksAhead(std::span<const Task> tasks) {
  std::vector<size_t> ahead(tasks.size());
  size_t next = 0;
  uint64_t bytes = 0;  // of tasks [i, next)
  for (size_t i = 0; i < tasks.size(); ++i) {
    while (next < tasks.size() && bytes < kPrefetchBytes) bytes += tasks[next++].bytes();
    ahead[i] = next;
    bytes -= tasks[i].bytes();
  }
  return ahead;
}

}  // namespace

PackedModel PackModel(const Model& model, const PackOptions& options, ThreadPool& pool, Progress& progress) {
  const uint64_t bytes = LayOut(model, options.format).bytes;
  const uint64_t usable = options.usable_memory ? *options.usable_memory : UsableMemoryBytes();
  RequireRoom(model, options.format, bytes, usable);

  PackedModel packed;
  packed.spec = model.spec();
  packed.memory = HugePageBuffer(bytes, model.config.name + ": weights");
  packed.memory.Interleave();
  std::byte* const memory = packed.memory.bytes().data();
  PackLayout layout = LayOut(model, options.format, memory);

  const std::vector<Task> tasks = TasksOf(layout);
  const std::vector<size_t> ahead = TasksAhead(tasks);
  uint64_t source_bytes = 0;
  for (const Task& task : tasks) source_bytes += task.bytes();
  const bool release = bytes + source_bytes > usable;
  const Packer packer(*model.source, memory, release, pool.num_threads(), tasks);
  progress.Start("loading weights", source_bytes);
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t index, int worker) {
    const auto i = static_cast<size_t>(index);
    for (size_t next = i == 0 ? 0 : ahead[i - 1]; next < ahead[i]; ++next) packer.Prefetch(tasks[next]);
    packer.Run(tasks[i], worker);
    progress.Advance(tasks[i].bytes());
  });
  progress.Finish();
  packed.weights = std::move(layout.weights);
  return packed;
}

}  // namespace fiddler
