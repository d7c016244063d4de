// Loads a model: from where its weights lie to packed weights in memory, as fast as the source can be read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "engine/pack_layout.h"
#include "engine/packed_weights.h"
#include "model/model.h"

namespace fiddler {

// Where routed experts go that are not all to be in memory.
struct ExpertFileOptions {
  std::filesystem::path file;  // written where it is missing (experts/packed_file.h); its folder is there
  int64_t slots = 0;           // experts in memory at a time
};

struct PackOptions {
  PackFormat format;
  std::optional<ExpertFileOptions> experts = std::nullopt;  // otherwise in memory
  std::optional<uint64_t> usable_memory =
      std::nullopt;  // bytes; otherwise what the machine has left (UsableMemoryBytes)
};

// Reads every weight of `model` once, in pieces that stay in the cache of the worker that packs them, so that
// beside the packed weights (and the slots of experts) next to nothing is in memory. Where files in the page
// cache and packed weights would not fit together, what is read leaves the page cache at once. Progress
// counts bytes of the source. `model` is not needed afterwards. Throws Error where the disk fails, or, before
// anything is read, if memory is short: it says what would fit.
PackedModel PackModel(const Model& model, const PackOptions& options, ThreadPool& pool, Progress& progress);

}  // namespace fiddler
