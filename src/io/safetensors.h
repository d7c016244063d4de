// The safetensors format, read only: https://github.com/huggingface/safetensors#format
//   u64 little-endian N | N bytes of JSON: name -> {dtype, shape, data_offsets} | tensor data
// A file is refused for everything the reference implementation refuses, and also for duplicate names.
//
// Views point into the mapping: nothing is copied. The format does not ask for alignment, and old writers did
// not pad the header, so a view need not begin at a multiple of its element size: copy out what you compute
// with (MappedFile::Read).
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "io/mapped_file.h"

namespace fiddler {

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  size_t begin = 0;  // bytes [begin, end) of the data section
  size_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in file order; they cover the data section without gap or overlap
  std::map<std::string, std::string> metadata;  // the free-form "__metadata__"
  size_t data_begin = 0;                        // where the data section starts in the file
};

// Validates the whole layout of a file given its bytes; `source` (a file name) is for the errors. Reads only
// the header, never the data. Throws Error naming source, tensor or field, expected and got.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view source);

// Move-only; const methods may be called from several threads.
class SafetensorsFile {
 public:
  static SafetensorsFile Open(const std::filesystem::path& path);

  const MappedFile& file() const { return file_; }
  std::span<const TensorView> tensors() const { return tensors_; }  // in file order
  const TensorView* Find(std::string_view name) const;              // nullptr if there is none
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;  // keys look into tensors_
  std::map<std::string, std::string> metadata_;
};

}  // namespace fiddler
