#include "experts/packed_header.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checksum.h"
#include "base/error.h"

namespace fiddler {
namespace {

constexpr uint32_t kVersion = 1;
constexpr uint64_t kChecksumBytes = sizeof(uint64_t);
// Far above every model there is, far below what overflows: an expert has less than 2^52 bytes.
constexpr uint64_t kMaxWidth = uint64_t{1} << 24;
constexpr uint64_t kMaxCount = uint64_t{1} << 16;

uint64_t RoundUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

template <typename T>
void Append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));  // checksum.h wants little-endian too
}

// Takes numbers from bytes that are known to be there.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T Take() {
    T value;
    std::memcpy(&value, Skip(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> Skip(uint64_t count) {
    CHECK(count <= bytes_.size(), "{} of {} bytes", count, bytes_.size());
    const std::span<const std::byte> skipped = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return skipped;
  }

 private:
  std::span<const std::byte> bytes_;
};

void RequireInRange(std::string_view source, std::string_view field, uint64_t low, uint64_t high,
                    uint64_t got) {
  if (got < low || got > high)
    throw Error("{}: {}: expected {} to {}, got {}", source, field, low, high, got);
}

void RequireEqual(std::string_view source, std::string_view field, uint64_t expected, uint64_t got) {
  if (got != expected) throw Error("{}: {}: expected {}, got {}", source, field, expected, got);
}

uint64_t HeaderBytes(uint64_t identity_bytes, uint64_t count) {
  return PackedHeader::kFixedBytes + RoundUp(identity_bytes, 8) + 8 * count + kChecksumBytes;
}

}  // namespace

uint64_t PackedHeader::stride() const { return RoundUp(expert.bytes(), kPageBytes); }

uint64_t PackedHeader::bytes() const { return HeaderBytes(identity.size(), static_cast<uint64_t>(count())); }

uint64_t PackedHeader::data_begin() const { return RoundUp(bytes(), kPageBytes); }

uint64_t PackedHeader::file_bytes() const { return OffsetOf(count()); }

bool PackedHeader::Describes(const PackedHeader& other) const {
  return identity == other.identity && num_layers == other.num_layers && num_experts == other.num_experts &&
         expert.format == other.expert.format && expert.hidden == other.expert.hidden &&
         expert.intermediate == other.expert.intermediate &&
         expert.slice_neurons == other.expert.slice_neurons;
}

std::string SerializePackedHeader(const PackedHeader& header) {
  CHECK(header.checksums.size() == static_cast<size_t>(header.count()), "{} checksums",
        header.checksums.size());
  std::string bytes(PackedHeader::kMagic);
  Append(bytes, kVersion);
  Append(bytes, static_cast<uint32_t>(header.expert.format));
  Append(bytes, header.bytes());
  Append(bytes, header.expert.hidden);
  Append(bytes, header.expert.intermediate);
  Append(bytes, header.expert.slice_neurons);
  Append(bytes, static_cast<uint32_t>(header.num_layers));
  Append(bytes, static_cast<uint32_t>(header.num_experts));
  Append(bytes, header.stride());
  Append(bytes, header.data_begin());
  Append(bytes, uint64_t{header.identity.size()});
  CHECK(bytes.size() == PackedHeader::kFixedBytes, "{} bytes", bytes.size());
  bytes += header.identity;
  bytes.resize(RoundUp(bytes.size(), 8));
  for (const uint64_t checksum : header.checksums) Append(bytes, checksum);
  Append(bytes, Checksum64(std::as_bytes(std::span(bytes))));
  CHECK(bytes.size() == header.bytes(), "{} bytes", bytes.size());
  bytes.resize(header.data_begin());
  return bytes;
}

uint64_t PackedHeaderBytes(std::span<const std::byte> start, std::string_view source) {
  if (start.size() < PackedHeader::kFixedBytes ||
      std::memcmp(start.data(), PackedHeader::kMagic.data(), PackedHeader::kMagic.size()) != 0) {
    throw Error("{}: expected a packed expert file, got something else", source);
  }
  Reader reader(start.subspan(PackedHeader::kMagic.size()));
  RequireEqual(source, "version", kVersion, reader.Take<uint32_t>());
  reader.Skip(sizeof(uint32_t));
  const auto bytes = reader.Take<uint64_t>();
  RequireInRange(source, "header bytes", HeaderBytes(0, 1), PackedHeader::kMaxBytes, bytes);
  return bytes;
}

PackedHeader ParsePackedHeader(std::span<const std::byte> start, uint64_t file_bytes,
                               std::string_view source) {
  const uint64_t header_bytes = PackedHeaderBytes(start, source);
  if (start.size() < header_bytes) {
    throw Error("{}: expected a header of {} bytes, got a file of {}", source, header_bytes, start.size());
  }
  const uint64_t expected = Checksum64(start.first(header_bytes - kChecksumBytes));
  const auto got = Reader(start.subspan(header_bytes - kChecksumBytes)).Take<uint64_t>();
  if (got != expected) {
    throw Error("{}: checksum of the header: expected {:016x}, got {:016x}", source, expected, got);
  }

  Reader reader(start.subspan(PackedHeader::kMagic.size() + sizeof(kVersion)));
  const auto format = reader.Take<uint32_t>();
  RequireInRange(source, "format", 0, std::size(kWeightFormats) - 1, format);
  reader.Skip(sizeof(header_bytes));
  const auto hidden = reader.Take<uint64_t>();
  const auto intermediate = reader.Take<uint64_t>();
  const auto slice_neurons = reader.Take<uint64_t>();
  RequireInRange(source, "hidden", 1, kMaxWidth, hidden);
  RequireInRange(source, "intermediate", 1, kMaxWidth, intermediate);
  RequireInRange(source, "slice_neurons", 64, kMaxWidth, slice_neurons);
  RequireEqual(source, "slice_neurons modulo 64", 0, slice_neurons % 64);
  PackedHeader header;
  header.expert = {.data = nullptr,
                   .format = static_cast<WeightFormat>(format),
                   .hidden = static_cast<int64_t>(hidden),
                   .intermediate = static_cast<int64_t>(intermediate),
                   .slice_neurons = static_cast<int64_t>(slice_neurons)};
  const uint64_t layers = reader.Take<uint32_t>();
  const uint64_t experts = reader.Take<uint32_t>();
  RequireInRange(source, "layers", 1, kMaxCount, layers);
  RequireInRange(source, "experts", 1, kMaxCount, experts);
  header.num_layers = static_cast<int64_t>(layers);
  header.num_experts = static_cast<int64_t>(experts);
  const auto stride = reader.Take<uint64_t>();
  const auto data_begin = reader.Take<uint64_t>();
  const auto identity_bytes = reader.Take<uint64_t>();
  RequireInRange(source, "identity bytes", 0, header_bytes, identity_bytes);
  RequireEqual(source, "header bytes", HeaderBytes(identity_bytes, layers * experts), header_bytes);
  const std::span<const std::byte> identity = reader.Skip(identity_bytes);
  header.identity.assign(reinterpret_cast<const char*>(identity.data()), identity.size());
  const std::span<const std::byte> padding = reader.Skip(RoundUp(identity_bytes, 8) - identity_bytes);
  const bool padded = std::ranges::all_of(padding, [](std::byte byte) { return byte == std::byte{0}; });
  if (!padded) throw Error("{}: identity: expected zeros behind it, got something else", source);
  for (uint64_t i = 0; i < layers * experts; ++i) header.checksums.push_back(reader.Take<uint64_t>());

  RequireEqual(source, "stride", header.stride(), stride);
  RequireEqual(source, "data begin", header.data_begin(), data_begin);
  // count < 2^23 (header_bytes), but an expert may be so large that together they overflow.
  uint64_t data_bytes = 0;
  if (__builtin_mul_overflow(header.stride(), layers * experts, &data_bytes) || file_bytes < data_begin ||
      file_bytes - data_begin != data_bytes) {
    throw Error("{}: expected {} experts of {} bytes behind {} bytes, got a file of {}", source,
                layers * experts, header.stride(), data_begin, file_bytes);
  }
  return header;
}

}  // namespace fiddler
