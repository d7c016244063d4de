// One view over the weights in a model directory, however many files they are spread over.
//
// Which files count follows Hugging Face transformers: model.safetensors if it is there, else the shards that
// model.safetensors.index.json lists, else the one *.safetensors there is. Only safetensors are read.
// Immutable after Open: every method may be called from several threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/progress.h"
#include "io/safetensors.h"
#include "io/weight_source.h"

namespace fiddler {

class Checkpoint final : public WeightSource {
 public:
  // A tensor and the file it lives in.
  struct StoredTensor {
    const TensorView* view;
    const SafetensorsFile* file;
  };

  // Maps the files and validates their headers and the index; no weights are read. Throws Error.
  static Checkpoint Open(const std::filesystem::path& model_dir);

  std::span<const SafetensorsFile> files() const { return files_; }
  std::span<const StoredTensor> tensors() const { return tensors_; }  // file by file, in file order
  uint64_t total_bytes() const { return total_bytes_; }               // of all tensors()

  bool Has(std::string_view name) const override;
  const TensorView* Find(std::string_view name) const override;
  TensorView Require(std::string_view name, const Shape& shape) override;
  void Release(const TensorView& tensor) override;

  // Reads the files into memory with that many threads, so that a cold start shows the rate of the disk and
  // nothing waits for it later. Costs little when they are in the page cache already. Throws Error where the
  // disk fails.
  void Prefetch(Progress& progress, unsigned threads) const;

 private:
  Checkpoint() = default;
  void IndexTensors(const std::function<bool(const TensorView&)>& counts);

  std::filesystem::path model_dir_;
  std::vector<SafetensorsFile> files_;
  std::vector<StoredTensor> tensors_;                     // looks into files_
  std::unordered_map<std::string_view, size_t> by_name_;  // keys look into files_
  uint64_t total_bytes_ = 0;
};

}  // namespace fiddler
