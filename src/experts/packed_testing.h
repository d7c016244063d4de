// For tests only: a packed file of made-up experts, and a folder for it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/topology.h"
#include "experts/packed_file.h"

namespace fiddler {

class PackedFolder {
 public:
  PackedFolder() : path_(testing::TempDir() + "fiddler-experts-XXXXXX") {
    std::string name = path_.string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  PackedFolder(const PackedFolder&) = delete;
  PackedFolder& operator=(const PackedFolder&) = delete;
  ~PackedFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path file() const { return path_ / "experts.packed"; }
  size_t CountFiles() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  std::filesystem::path path_;
};

// Experts of 96 KiB and a bit, or, `large`, of more than two pieces.
inline PackedHeader TestHeader(int64_t layers, int64_t experts, bool large = false) {
  PackedHeader header;
  header.expert = {.data = nullptr,
                   .format = WeightFormat::kInt8,
                   .hidden = large ? 8192 : 416,
                   .intermediate = large ? 448 : 64,
                   .slice_neurons = 64};
  header.num_layers = layers;
  header.num_experts = experts;
  header.identity = "made for a test\n";
  return header;
}

inline void MakeExpert(const PackedHeader& header, int64_t index, std::byte* out) {
  Rng rng(static_cast<uint64_t>(index));
  for (size_t i = 0; i + 8 <= header.expert.bytes(); i += 8) {
    const uint64_t bits = rng.NextBits();
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

inline bool IsExpert(const PackedHeader& header, int64_t index, const std::byte* data) {
  std::vector<std::byte> expected(header.expert.bytes());
  MakeExpert(header, index, expected.data());
  return std::memcmp(expected.data(), data, expected.size()) == 0;
}

// Packs with two workers; pack as MakeExpert unless given.
inline PackedFile WriteTestFile(const std::filesystem::path& path, const PackedHeader& header,
                                const PackExpert& pack = {}) {
  ThreadPool pool(2, DiscoverTopology());
  NoProgress progress;
  const HugePageBuffer memory(2 * header.stride(), "test");
  std::byte* const buffers[] = {memory.bytes().data(), memory.bytes().data() + header.stride()};
  const PackExpert make = [&](int64_t index, int, std::byte* out) { MakeExpert(header, index, out); };
  return FindOrWritePackedFile(path, header, pool, buffers, pack ? pack : make, progress);
}

inline void FlipByte(const std::filesystem::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(static_cast<char>(byte ^ 1));
}

}  // namespace fiddler
