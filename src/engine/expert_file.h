// The packed expert file of a model (experts/packed_file.h): what it says, where it lies, how it is made.
#pragma once

#include <filesystem>
#include <span>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "engine/pack_layout.h"
#include "experts/packed_file.h"
#include "model/model.h"

namespace fiddler {

// The header of the file, checksums apart. Its identity says which weights they are (WeightIdentity, samples
// of every expert), how they are quantized and which tensors they are. Reads the samples: throws Error where
// the disk fails. The model has experts.
PackedHeader DescribeExperts(const Model& model, const PackFormat& format);

// What an expert takes in the file and in memory. Reads nothing.
uint64_t ExpertSlotBytes(const Model& model, const PackFormat& format);

// Where it lies if nobody says otherwise: fiddler/NAME-HASH.packed in the user's cache folder
// ($XDG_CACHE_HOME, ~/.cache), which is made if it is not there. NAME is for people; HASH tells apart where
// models are, their shapes and formats. Weights that change where they are keep the name: then the file is
// written anew and takes the place of the old one. Throws Error if there is no such folder.
std::filesystem::path DefaultExpertFile(const Model& model, const PackFormat& format);

// Finds or writes the file at `path`. `slots` (on a page): memory to pack in, for as many experts at a time
// as it has room for, at least one; what it holds afterwards means nothing. What is read leaves the page
// cache. Throws Error as FindOrWritePackedFile does.
PackedFile FindOrPackExperts(const Model& model, const PackFormat& format, const std::filesystem::path& path,
                             std::span<std::byte> slots, ThreadPool& pool, Progress& progress);

}  // namespace fiddler
