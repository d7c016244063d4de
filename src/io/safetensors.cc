#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace fiddler {
namespace {

constexpr size_t kLengthBytes = 8;                 // the u64 in front of the header
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // MAX_HEADER_SIZE of the reference implementation
constexpr std::string_view kMetadataKey = "__metadata__";

// The header as text. Checks everything that can be checked without parsing it.
std::string_view HeaderText(std::span<const std::byte> file, std::string_view source) {
  if (file.size() < kLengthBytes) {
    throw Error("{}: expected at least 8 bytes (a safetensors header length), got {}", source, file.size());
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  if (length > kMaxHeaderBytes) {
    throw Error("{}: expected a safetensors header of at most {} bytes, got {}", source, kMaxHeaderBytes,
                length);
  }
  if (length > file.size() - kLengthBytes) {
    throw Error("{}: expected a header of {} bytes, got a file that ends after {} of them", source, length,
                file.size() - kLengthBytes);
  }
  const auto* text = reinterpret_cast<const char*>(file.data() + kLengthBytes);
  if (length == 0 || text[0] != '{') {
    throw Error("{}: expected a safetensors header that starts with '{{', got {}", source,
                length == 0 ? "an empty one" : Printable(std::string(text, 1)));
  }
  return {text, length};
}

// One tensor of the header. `where` names file and tensor.
class EntryParser {
 public:
  EntryParser(std::string_view source, const std::string& name, const Json& fields)
      : where_(fmt::format("{}: tensor {}", source, Printable(name))), fields_(fields) {
    if (!fields.is_object()) throw Error("{}: expected an object, got {}", where_, Printable(fields));
  }

  DType ParseDType() const {
    const Json& value = Field("dtype");
    if (value.is_string()) {
      if (const auto dtype = DTypeFromName(value.get_ref<const std::string&>())) return *dtype;
    }
    throw Error("{}: field dtype: expected a known type such as BF16, got {}", where_, Printable(value));
  }

  Shape ParseShape() const {
    const Json& value = Field("shape");
    Shape shape;
    for (const uint64_t dimension : ParseUnsigned("shape", value)) {
      if (dimension > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        throw Error("{}: field shape: expected dimensions below 2^63, got {}", where_, Printable(value));
      }
      shape.push_back(static_cast<int64_t>(dimension));
    }
    return shape;
  }

  // Within the data section, and as long as type and shape say.
  std::pair<size_t, size_t> ParseOffsets(DType dtype, const Shape& shape, size_t data_bytes) const {
    const Json& value = Field("data_offsets");
    const std::vector<uint64_t> offsets = ParseUnsigned("data_offsets", value);
    if (offsets.size() != 2 || offsets[0] > offsets[1]) {
      throw Error("{}: field data_offsets: expected [begin, end] with begin <= end, got {}", where_,
                  Printable(value));
    }
    if (offsets[1] > data_bytes) {
      throw Error("{}: field data_offsets: expected at most {}, the bytes of data in the file, got {}",
                  where_, data_bytes, offsets[1]);
    }
    const size_t expected = ByteSize(dtype, shape);
    if (offsets[1] - offsets[0] != expected) {
      throw Error("{}: expected {} bytes for {} {}, got {}", where_, expected, DTypeName(dtype),
                  ShapeToString(shape), offsets[1] - offsets[0]);
    }
    return {offsets[0], offsets[1]};
  }

 private:
  const Json& Field(const char* name) const {
    const auto field = fields_.find(name);
    if (field == fields_.end()) throw Error("{}: expected a field {}, got none", where_, name);
    return *field;
  }

  std::vector<uint64_t> ParseUnsigned(std::string_view field, const Json& value) const {
    const auto is_unsigned = [](const Json& item) { return item.is_number_unsigned(); };
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_unsigned)) {
      throw Error("{}: field {}: expected an array of non-negative integers, got {}", where_, field,
                  Printable(value));
    }
    return value.get<std::vector<uint64_t>>();
  }

  size_t ByteSize(DType dtype, const Shape& shape) const {
    size_t bytes = 1;
    bool overflow = false;
    for (const int64_t dimension : shape) {
      overflow |= __builtin_mul_overflow(bytes, static_cast<size_t>(dimension), &bytes);
    }
    overflow |= __builtin_mul_overflow(bytes, DTypeBytes(dtype), &bytes);
    if (overflow) {
      throw Error("{}: field shape: expected less than 2^64 bytes, got {} {}", where_, DTypeName(dtype),
                  ShapeToString(shape));
    }
    return bytes;
  }

  std::string where_;
  const Json& fields_;
};

std::map<std::string, std::string> ParseMetadata(const Json& value, std::string_view source) {
  const auto is_string = [](const Json& item) { return item.is_string(); };
  if (!value.is_object() || !std::all_of(value.begin(), value.end(), is_string)) {
    throw Error("{}: field {}: expected an object of strings, got {}", source, kMetadataKey,
                Printable(value));
  }
  return value.get<std::map<std::string, std::string>>();
}

// Sorted by offset, the tensors must follow each other and fill the data section.
void CheckCoverage(const std::vector<TensorEntry>& tensors, size_t data_bytes, std::string_view source) {
  size_t end = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin != end) {
      throw Error(
          "{}: tensor {}: field data_offsets: expected to begin at {}, where the one before ends, got {} "
          "({})",
          source, Printable(tensor.name), end, tensor.begin, tensor.begin > end ? "a hole" : "an overlap");
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    throw Error("{}: expected {} bytes of data, the end of the last tensor{}, got {}", source, end,
                tensors.empty() ? "" : " " + Printable(tensors.back().name), data_bytes);
  }
}

}  // namespace

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view source) {
  const std::string_view text = HeaderText(file, source);
  const Json json = ParseJson(text, source);
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + text.size();
  const size_t data_bytes = file.size() - header.data_begin;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadataKey) {
      header.metadata = ParseMetadata(value, source);
      continue;
    }
    const EntryParser parser(source, name, value);
    TensorEntry entry{.name = name, .dtype = parser.ParseDType(), .shape = parser.ParseShape()};
    std::tie(entry.begin, entry.end) = parser.ParseOffsets(entry.dtype, entry.shape, data_bytes);
    header.tensors.push_back(std::move(entry));
  }
  // By both ends, so that an empty tensor comes before the one that starts at the same byte.
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  CheckCoverage(header.tensors, data_bytes, source);
  return header;
}

SafetensorsFile SafetensorsFile::Open(const std::filesystem::path& path) {
  SafetensorsFile result(MappedFile::Open(path));
  SafetensorsHeader header = ParseSafetensorsHeader(result.file_.bytes(), path.string());
  const std::span<const std::byte> data = result.file_.bytes().subspan(header.data_begin);
  result.metadata_ = std::move(header.metadata);
  for (TensorEntry& entry : header.tensors) {
    result.tensors_.push_back({.name = std::move(entry.name),
                               .dtype = entry.dtype,
                               .shape = std::move(entry.shape),
                               .bytes = data.subspan(entry.begin, entry.end - entry.begin)});
  }
  for (size_t i = 0; i < result.tensors_.size(); ++i) result.by_name_.emplace(result.tensors_[i].name, i);
  return result;
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace fiddler
