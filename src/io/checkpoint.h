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

  WeightIdentity Identity() const override;  // the folder; names, sizes and times of the files
  bool Has(std::string_view name) const override;
  TensorInfo Require(std::string_view name, const Shape& shape) const override;
  void Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override;
  void Prefetch(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override;
  // Lets the page cache go.
  void Release(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const override;

  // The tensor as it is stored, of whatever type and shape, or nullptr.
  const TensorView* Find(std::string_view name) const;

 private:
  Checkpoint() = default;
  void IndexTensors(const std::function<bool(const TensorView&)>& counts);
  const StoredTensor& At(const TensorInfo& tensor) const;

  std::filesystem::path model_dir_;
  std::vector<SafetensorsFile> files_;
  std::vector<StoredTensor> tensors_;                     // looks into files_
  std::unordered_map<std::string_view, size_t> by_name_;  // keys look into files_
  uint64_t total_bytes_ = 0;
};

}  // namespace fiddler
