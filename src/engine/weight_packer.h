// The work of packing weights, cut into tasks that each read a little from a source and write it where the
// kernels want it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/pack_layout.h"
#include "io/weight_source.h"

namespace fiddler {

// Consecutive rows that one worker reads and packs: of a matrix, of the down matrix of an FFN, or of its gate
// and up matrices together.
struct PackTask {
  const PackLayout::Matrix* matrix = nullptr;
  const PackLayout::Ffn* ffn = nullptr;
  const StoredMatrix* from = nullptr;
  const StoredMatrix* up = nullptr;  // with `from` the gate
  int64_t first = 0;
  int64_t rows = 0;

  uint64_t bytes() const {
    return static_cast<uint64_t>(rows) * (from->row_bytes() + (up != nullptr ? up->row_bytes() : 0));
  }
  // Where its matrix or FFN begins in the memory that was laid out.
  uint64_t offset() const { return matrix != nullptr ? matrix->offset : ffn->offset; }
};

void AddTasks(const PackLayout::Matrix& matrix, std::vector<PackTask>& tasks);
void AddTasks(const PackLayout::Ffn& ffn, std::vector<PackTask>& tasks);

// For each task, the first one that is so far behind it that the disk need not begin with it yet.
std::vector<size_t> TasksAhead(std::span<const PackTask> tasks);

class WeightPacker {
 public:
  // `release`: what was read leaves the page cache. `workers` may run tasks at a time, none that reads more
  // than the largest of `tasks`. `source` must outlive this object.
  WeightPacker(const WeightSource& source, bool release, int workers, std::span<const PackTask> tasks);

  void Prefetch(const PackTask& task) const;

  // `out`: where the task's matrix or FFN begins. Throws Error where the disk fails.
  void Run(const PackTask& task, int worker, std::byte* out) const;

 private:
  const WeightSource& source_;
  const bool release_;
  std::vector<std::unique_ptr<std::byte[]>> scratch_;  // one a worker
};

}  // namespace fiddler
