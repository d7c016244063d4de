#include "engine/expert_file.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"
#include "engine/weight_packer.h"

namespace fiddler {
namespace {

namespace fs = std::filesystem;

uint64_t ChecksumOf(std::string_view text) { return Checksum64(std::as_bytes(std::span(text))); }

// Names, types and places of all tensors that experts are packed from, in the order of the file.
uint64_t ChecksumOfTensors(const PackLayout& layout) {
  std::string text;
  for (const PackLayout::Ffn& expert : layout.experts_elsewhere) {
    for (const StoredMatrix* matrix : {&expert.from->gate, &expert.from->up, &expert.from->down}) {
      text += fmt::format("{} {} {}\n", matrix->tensor.name, DTypeName(matrix->dtype()), matrix->first_row);
    }
  }
  return ChecksumOf(text);
}

PackedHeader Describe(const Model& model, const PackFormat& format, const PackLayout& layout) {
  CHECK(!layout.experts_elsewhere.empty(), "{}", model.config.name);
  PackedHeader header;
  header.expert = layout.experts_elsewhere.front().to;
  header.num_experts = model.spec().moe.num_experts;
  header.num_layers = static_cast<int64_t>(layout.experts_elsewhere.size()) / header.num_experts;
  header.identity = fmt::format("{}quantization {}, tensors {:016x}\n", model.source->Identity(),
                                QuantizationName(format.quantization), ChecksumOfTensors(layout));
  return header;
}

PackLayout LayOutElsewhere(const Model& model, const PackFormat& format) {
  return LayOut(model, format, nullptr, ExpertPlace::kElsewhere);
}

fs::path CacheFolder() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return cache;  // others are to be ignored (XDG)
  const char* const home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return fs::path(home) / ".cache";
  throw Error(
      "packed experts: expected HOME or XDG_CACHE_HOME to name a folder, got neither; --packed-file names "
      "one");
}

}  // namespace

PackedHeader DescribeExperts(const Model& model, const PackFormat& format) {
  return Describe(model, format, LayOutElsewhere(model, format));
}

fs::path DefaultExpertFile(const Model& model, const PackedHeader& header) {
  const fs::path folder = CacheFolder() / "fiddler";
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
  const uint64_t hash =
      ChecksumOf(fmt::format("{}{} {} {} {} {} {}", header.identity, header.num_layers, header.num_experts,
                             FormatName(header.expert.format), header.expert.hidden,
                             header.expert.intermediate, header.expert.slice_neurons));
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
