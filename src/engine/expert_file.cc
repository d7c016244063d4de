#include "engine/expert_file.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "base/cache_folder.h"
#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "engine/weight_packer.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

uint64_t ChecksumOf(std::string_view text) { return Checksum64(std::as_bytes(std::span(text))); }

PackLayout LayOutElsewhere(const Model& model, const PackFormat& format) {
  PackLayout layout = LayOut(model, format, nullptr, ExpertPlace::kElsewhere);
  CHECK(!layout.experts_elsewhere.empty(), "{}", model.config.name);
  return layout;
}

// Calls visit(matrix) for all that experts are packed from, in the order of the file.
template <typename Visit>
void ForEachMatrix(const PackLayout& layout, const Visit& visit) {
  for (const PackLayout::Ffn& expert : layout.experts_elsewhere) {
    for (const StoredMatrix* matrix : {&expert.from->gate, &expert.from->up, &expert.from->down}) {
      visit(*matrix);
    }
  }
}

// Names, types and places of all tensors.
uint64_t ChecksumOfTensors(const PackLayout& layout) {
  std::string text;
  ForEachMatrix(layout, [&](const StoredMatrix& matrix) {
    text += fmt::format("{} {} {}\n", matrix.tensor.name, DTypeName(matrix.dtype()), matrix.first_row);
  });
  return ChecksumOf(text);
}

// Of a piece of every matrix: weights that were given the names, sizes and times of others differ there, were
// it one expert alone. All pieces of a model with 100 GB of experts are 50 MB.
uint64_t Sample(const PackLayout& layout, const WeightSource& source) {
  constexpr uint64_t kPieceBytes = 4096;
  const auto for_each_piece = [&](const auto& visit) {
    ForEachMatrix(layout, [&](const StoredMatrix& matrix) {
      const uint64_t bytes = std::min(kPieceBytes, matrix.bytes());
      visit(matrix.tensor, matrix.OffsetOf(0) + (matrix.bytes() - bytes) / 2, bytes);
    });
  };
  // Asked for together, a disk finds them many times faster than one by one.
  for_each_piece([&](const auto&... piece) { source.Prefetch(piece...); });
  std::vector<std::byte> piece;
  uint64_t sum = 0;
  for_each_piece([&](const TensorInfo& tensor, uint64_t offset, uint64_t bytes) {
    piece.resize(bytes);
    source.Read(tensor, offset, piece);
    source.Release(tensor, offset, bytes);
    sum = ChecksumStep(sum, Checksum64(piece));
  });
  return sum;
}

// Without an identity.
PackedHeader DescribeShape(const Model& model, const PackLayout& layout) {
  PackedHeader header;
  header.expert = layout.experts_elsewhere.front().to;
  header.num_experts = model.spec().moe.num_experts;
  header.num_layers = static_cast<int64_t>(layout.experts_elsewhere.size()) / header.num_experts;
  return header;
}

PackedHeader Describe(const Model& model, const PackFormat& format, const PackLayout& layout) {
  PackedHeader header = DescribeShape(model, layout);
  header.identity = fmt::format("{}quantization {}, tensors {:016x}, samples {:016x}\n",
                                model.source->Identity().content, QuantizationName(format.quantization),
                                ChecksumOfTensors(layout), Sample(layout, *model.source));
  return header;
}

}  // namespace

PackedHeader DescribeExperts(const Model& model, const PackFormat& format) {
  return Describe(model, format, LayOutElsewhere(model, format));
}

uint64_t ExpertSlotBytes(const Model& model, const PackFormat& format) {
  return DescribeShape(model, LayOutElsewhere(model, format)).stride();
}

fs::path DefaultExpertFile(const Model& model, const PackFormat& format) {
  const fs::path folder = CacheFolder("--packed-file");
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw Error("{}: expected a folder for packed experts, got: {}; --packed-file names another",
                folder.string(), error.message());
  }
  fs::path named = fs::absolute(model.config.name).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();  // "model/"
  std::string name = named.filename().string();
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0 && c != '-' && c != '.'; }, '_');
  constexpr size_t kMaxName = 64;
  const PackedHeader shape = DescribeShape(model, LayOutElsewhere(model, format));
  const uint64_t hash = ChecksumOf(fmt::format(
      "{} {} {} {} {} {} {} {}", model.source->Identity().name, QuantizationName(format.quantization),
      shape.num_layers, shape.num_experts, FormatName(shape.expert.format), shape.expert.hidden,
      shape.expert.intermediate, shape.expert.slice_neurons));
  return folder / fmt::format("{}-{:016x}.packed", name.substr(0, kMaxName), hash);
}

PackedFile FindOrPackExperts(const Model& model, const PackFormat& format, const fs::path& path,
                             std::span<std::byte> slots, ThreadPool& pool, Progress& progress) {
  const PackLayout layout = LayOutElsewhere(model, format);
  const PackedHeader header = Describe(model, format, layout);
  std::vector<std::byte*> buffers;
  const size_t most = std::min(static_cast<size_t>(pool.num_threads()), slots.size() / header.stride());
  for (size_t i = 0; i < most; ++i) buffers.push_back(slots.data() + i * header.stride());

  std::vector<PackTask> largest;  // all experts are alike
  AddTasks(layout.experts_elsewhere.front(), largest);
  const WeightPacker packer(*model.source, /*release=*/true, pool.num_threads(), largest);
  const auto pack = [&](int64_t index, int worker, std::byte* out) {
    std::vector<PackTask> tasks;
    AddTasks(layout.experts_elsewhere[static_cast<size_t>(index)], tasks);
    const std::vector<size_t> ahead = TasksAhead(tasks);
    for (size_t i = 0; i < tasks.size(); ++i) {
      for (size_t next = i == 0 ? 0 : ahead[i - 1]; next < ahead[i]; ++next) packer.Prefetch(tasks[next]);
      packer.Run(tasks[i], worker, out);
    }
  };
  return FindOrWritePackedFile(path, header, pool, buffers, pack, progress);
}

}  // namespace fiddler
