// The header of a packed expert file: all routed experts of a model as they lie in memory (slice.h), so that
// they can be read from disk one by one, straight to where they are computed with.
//
//   bytes  little-endian
//       8  "FIDEXPRT"
//       4  version: 1. Raised when anything below changes, or how a format lies in memory (packed_matrix.h)
//       4  WeightFormat
//       8  H, bytes of the header up to its own checksum
//       8  hidden
//       8  intermediate
//       8  slice_neurons
//       4  layers that have experts
//       4  experts of a layer
//       8  stride: bytes of an expert, up to a whole page (4096)
//       8  where the first expert begins: H, up to a whole page
//       8  I, bytes of the identity
//       I  identity: what the experts were packed from, as text; then zeros up to a multiple of 8
//   8 * n  checksum of every expert, n = layers * experts
//       8  checksum of all bytes before it (base/checksum.h)
//          zeros up to the first expert; then the experts, layer by layer, a stride each
//
// The checksum of an expert is that of its pieces of kPieceBytes, which different threads read: ChecksumStep
// over the Checksum64 of every piece in order, beginning with 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experts/slice.h"

namespace fiddler {

struct PackedHeader {
  static constexpr uint64_t kPageBytes = 4096;
  static constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
  static constexpr uint64_t kFixedBytes = 80;  // before the identity
  static constexpr uint64_t kMaxBytes = uint64_t{64} << 20;
  static constexpr std::string_view kMagic = "FIDEXPRT";

  SlicedFfn expert;  // what every expert looks like; without data
  int64_t num_layers = 0;
  int64_t num_experts = 0;
  std::string identity;
  std::vector<uint64_t> checksums;  // [num_layers * num_experts]; empty while they are not known

  int64_t count() const { return num_layers * num_experts; }
  uint64_t stride() const;
  uint64_t bytes() const;       // of the header, checksum included
  uint64_t data_begin() const;  // of the first expert
  uint64_t file_bytes() const;
  uint64_t OffsetOf(int64_t index) const { return data_begin() + static_cast<uint64_t>(index) * stride(); }

  // Whether a file with this header is what one with `other` would be: all but the checksums.
  bool Describes(const PackedHeader& other) const;
};

// The first data_begin() bytes of a file. Every checksum is known.
std::string SerializePackedHeader(const PackedHeader& header);

// What a header says about its own length, given kFixedBytes of it: to know how much to read.
uint64_t PackedHeaderBytes(std::span<const std::byte> start, std::string_view source);

// `start`: the file's first bytes, at least the whole header; file_bytes: its size. `source` (a file name) is
// for the errors. Throws Error naming source, field, expected and got for everything that is not exactly so.
PackedHeader ParsePackedHeader(std::span<const std::byte> start, uint64_t file_bytes,
                               std::string_view source);

}  // namespace fiddler
