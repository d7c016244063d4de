#include "io/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 100'000'000;  // as a safetensors header: it lists the same names

using WeightMap = std::map<std::string, std::string>;  // tensor -> file

std::vector<fs::path> ListFiles(const fs::path& model_dir) {
  std::error_code status;
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(model_dir, status), end; !status && entry != end;
       entry.increment(status)) {
    files.push_back(entry->path());
  }
  if (status) throw Error("{}: expected a model directory, got: {}", model_dir.string(), status.message());
  std::sort(files.begin(), files.end());
  return files;
}

// The directory has neither model.safetensors nor an index: the one safetensors file it has.
fs::path OnlySafetensorsFile(const fs::path& model_dir) {
  std::vector<fs::path> found;
  std::string other_format;
  for (const fs::path& file : ListFiles(model_dir)) {
    const std::string extension = file.extension().string();
    if (extension == ".safetensors") found.push_back(file);
    const bool is_other =
        extension == ".bin" || extension == ".gguf" || extension == ".pth" || extension == ".pt";
    if (is_other && other_format.empty()) other_format = file.filename().string();
  }
  if (found.size() == 1) return found.front();
  if (found.size() > 1) {
    throw Error("{}: expected {} or {} to say which weights count, got {} *.safetensors files and neither",
                model_dir.string(), kSingleFile, kIndexFile, found.size());
  }
  if (!other_format.empty()) {
    throw Error("{}: expected weights in *.safetensors files, the only format read from a directory, got {}",
                model_dir.string(), other_format);
  }
  throw Error("{}: expected weights in *.safetensors files, got none", model_dir.string());
}

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
         name.find('\0') == std::string::npos;
}

WeightMap ReadIndex(const fs::path& path) {
  const Json index = ParseJson(ReadFile(path, kMaxIndexBytes), path.string());
  const auto field = index.is_object() ? index.find("weight_map") : index.end();
  if (field == index.end() || !field->is_object()) {
    throw Error("{}: expected a field weight_map that maps tensors to files, got none", path.string());
  }
  WeightMap weight_map;
  for (const auto& [tensor, file] : field->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      throw Error("{}: tensor {}: expected the name of a file in the same directory, got {}", path.string(),
                  Printable(tensor), Printable(file));
    }
    weight_map.emplace(tensor, file);
  }
  return weight_map;
}

std::vector<SafetensorsFile> OpenShards(const fs::path& index_path, const WeightMap& weight_map) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) names.insert(file);
  std::vector<SafetensorsFile> shards;
  for (const std::string& name : names) {
    const fs::path path = index_path.parent_path() / name;
    std::error_code status;
    if (!fs::exists(path, status)) {
      throw Error("{}: field weight_map: expected files that exist, got {}: {}", index_path.string(),
                  Printable(name), status ? status.message() : "no such file");
    }
    shards.push_back(SafetensorsFile::Open(path));
  }
  return shards;
}

// Every tensor the index lists is in the file it says.
void CheckIndex(const fs::path& index_path, const WeightMap& weight_map,
                std::span<const SafetensorsFile> shards) {
  std::map<std::string, const SafetensorsFile*> by_name;
  for (const SafetensorsFile& shard : shards)
    by_name.emplace(shard.file().path().filename().string(), &shard);
  for (const auto& [tensor, file] : weight_map) {
    if (by_name.at(file)->Find(tensor) == nullptr) {
      throw Error("{}: tensor {}: expected in file {}, got a file without it", index_path.string(),
                  Printable(tensor), Printable(file));
    }
  }
}

bool IsComputeType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace

Checkpoint Checkpoint::Open(const fs::path& model_dir) {
  Checkpoint checkpoint;
  checkpoint.model_dir_ = model_dir;
  const fs::path index_path = model_dir / kIndexFile;
  std::error_code ignored;  // a path that cannot be looked at fails below, with its name
  if (fs::exists(model_dir / kSingleFile, ignored)) {
    checkpoint.files_.push_back(SafetensorsFile::Open(model_dir / kSingleFile));
  } else if (fs::exists(index_path, ignored)) {
    const WeightMap weight_map = ReadIndex(index_path);
    checkpoint.files_ = OpenShards(index_path, weight_map);
    CheckIndex(index_path, weight_map, checkpoint.files_);
    checkpoint.IndexTensors([&](const TensorView& tensor) { return weight_map.contains(tensor.name); });
    return checkpoint;
  } else {
    checkpoint.files_.push_back(SafetensorsFile::Open(OnlySafetensorsFile(model_dir)));
  }
  checkpoint.IndexTensors([](const TensorView&) { return true; });
  return checkpoint;
}

void Checkpoint::IndexTensors(const std::function<bool(const TensorView&)>& counts) {
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) {
      if (!counts(tensor)) continue;
      const auto [found, is_new] = by_name_.emplace(tensor.name, tensors_.size());
      if (!is_new) {
        throw Error("{}: tensor {}: expected in one file only, got it in {} too", file.file().path().string(),
                    Printable(tensor.name), tensors_[found->second].file->file().path().string());
      }
      tensors_.push_back({&tensor, &file});
      total_bytes_ += tensor.bytes.size();
    }
  }
}

WeightIdentity Checkpoint::Identity() const {
  std::error_code error;
  const fs::path folder = fs::canonical(model_dir_, error);
  WeightIdentity identity = {.name = (error ? model_dir_ : folder).string(), .content = {}};
  for (const SafetensorsFile& safetensors : files_) {
    const MappedFile& file = safetensors.file();
    identity.content += fmt::format("file {}, {} bytes, modified {} ns\n", file.path().filename().string(),
                                    file.size(), file.modified_ns());
  }
  return identity;
}

bool Checkpoint::Has(std::string_view name) const { return by_name_.contains(name); }

const TensorView* Checkpoint::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : tensors_[found->second].view;
}

TensorInfo Checkpoint::Require(std::string_view name, const Shape& shape) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    throw Error("{}: expected a tensor {} of shape {}, got none of that name among {}", model_dir_.string(),
                name, ShapeToString(shape), tensors_.size());
  }
  const auto& [view, file] = tensors_[found->second];
  if (view->shape != shape) {
    throw Error("{}: tensor {}: expected shape {}, got {}", file->file().path().string(), name,
                ShapeToString(shape), ShapeToString(view->shape));
  }
  if (!IsComputeType(view->dtype)) {
    throw Error("{}: tensor {}: expected F32, F16 or BF16, got {}", file->file().path().string(), name,
                DTypeName(view->dtype));
  }
  return {.name = view->name, .dtype = view->dtype, .shape = view->shape};
}

const Checkpoint::StoredTensor& Checkpoint::At(const TensorInfo& tensor) const {
  const auto found = by_name_.find(tensor.name);
  CHECK(found != by_name_.end(), "{}", tensor.name);
  return tensors_[found->second];
}

void Checkpoint::Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  const auto& [view, file] = At(tensor);
  file->file().Read(view->bytes.subspan(offset, out.size()), out.data());
}

void Checkpoint::Prefetch(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const {
  const auto& [view, file] = At(tensor);
  file->file().Prefetch(view->bytes.subspan(offset, bytes));
}

void Checkpoint::Release(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const {
  const auto& [view, file] = At(tensor);
  file->file().DropCache(view->bytes.subspan(offset, bytes));
}

}  // namespace fiddler
