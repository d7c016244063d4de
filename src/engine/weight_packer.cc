#include "engine/weight_packer.h"

#include <algorithm>

namespace fiddler {
namespace {

// What a task reads at most, if a panel allows: half of a core's L2, the other half is for what it writes.
constexpr uint64_t kTaskBytes = uint64_t{512} << 10;

// How far the disk is asked to be ahead of the tasks: enough requests to keep an NVMe drive busy, and no more
// than a small share of any machine's memory.
constexpr uint64_t kPrefetchBytes = uint64_t{64} << 20;

// Cuts `task`, which covers all rows, into tasks of whole panels.
void AddPieces(PackTask task, int64_t rows_of_a_panel, std::vector<PackTask>& tasks) {
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

void ForEachPart(const PackTask& task, const auto& body) {
  for (const StoredMatrix* matrix : {task.from, task.up}) {
    if (matrix == nullptr) continue;
    body(*matrix, matrix->OffsetOf(task.first), static_cast<uint64_t>(task.rows) * matrix->row_bytes());
  }
}

void PackMatrixRows(const PackTask& task, const RowMajor& rows, std::byte* out) {
  const PackedMatrix& to = task.matrix->to;
  const auto row_bytes = static_cast<int64_t>(task.from->row_bytes());
  for (int64_t begin = 0; begin < rows.rows; begin += kPanelRows) {
    const void* pointers[kPanelRows];
    const int64_t count = std::min(kPanelRows, rows.rows - begin);
    for (int64_t r = 0; r < count; ++r) {
      pointers[r] = static_cast<const std::byte*>(rows.data) + (begin + r) * row_bytes;
    }
    std::byte* panel = out + (task.first + begin) / kPanelRows * to.panel_bytes();
    PackPanel(to.format, rows.dtype, {pointers, static_cast<size_t>(count)}, rows.cols, panel);
  }
}

}  // namespace

void AddTasks(const PackLayout::Matrix& matrix, std::vector<PackTask>& tasks) {
  AddPieces({.matrix = &matrix, .from = matrix.from, .rows = matrix.from->rows}, kPanelRows, tasks);
}

void AddTasks(const PackLayout::Ffn& ffn, std::vector<PackTask>& tasks) {
  const FfnWeights& from = *ffn.from;
  AddPieces({.ffn = &ffn, .from = &from.gate, .up = &from.up, .rows = from.gate.rows}, kPanelRows / 2, tasks);
  AddPieces({.ffn = &ffn, .from = &from.down, .rows = from.down.rows}, kPanelRows, tasks);
}

std::vector<size_t> TasksAhead(std::span<const PackTask> tasks) {
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

WeightPacker::WeightPacker(const WeightSource& source, bool release, int workers,
                           std::span<const PackTask> tasks)
    : source_(source), release_(release) {
  uint64_t largest = 0;
  for (const PackTask& task : tasks) largest = std::max(largest, task.bytes());
  for (int i = 0; i < workers; ++i) scratch_.push_back(std::make_unique<std::byte[]>(largest));
}

void WeightPacker::Prefetch(const PackTask& task) const {
  ForEachPart(task, [&](const StoredMatrix& matrix, uint64_t offset, uint64_t bytes) {
    source_.Prefetch(matrix.tensor, offset, bytes);
  });
}

void WeightPacker::Run(const PackTask& task, int worker, std::byte* out) const {
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
    PackMatrixRows(task, rows[0], out);
  } else if (task.up != nullptr) {
    PackGateUp(task.ffn->to, task.first, rows[0], rows[1], out);
  } else {
    PackDown(task.ffn->to, task.first, rows[0], out);
  }
}

}  // namespace fiddler
