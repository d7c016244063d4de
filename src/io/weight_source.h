// Where the loader of a model takes its weights from: a checkpoint on disk (checkpoint.h), or made up in
// memory (dummy_weights.h). A source knows every tensor's type and shape at once; the bytes are read piece by
// piece, when they are wanted, so that a model need never be in memory twice. Every method may be called from
// several threads.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/tensor.h"

namespace fiddler {

// A tensor in a source: what it is, without its bytes.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;  // row-major: the last dimension is contiguous
};

// What tells weights from others: what was made from them may be kept as long as all of it stays the same.
struct WeightIdentity {
  std::string name;     // where they are or how they are made up; the same after they were changed there
  std::string content;  // as lines of text
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual WeightIdentity Identity() const = 0;

  // Whether the source stores a tensor of that name: for tensors that a model may or may not have, such as a
  // bias. DummyWeights says no to every name: it makes what is required and nothing more.
  virtual bool Has(std::string_view name) const = 0;

  // The tensor of that name, with exactly that shape, of a float type we compute with (F32, F16, BF16).
  // Throws Error naming file, tensor, expected and got. Reads none of it.
  virtual TensorInfo Require(std::string_view name, const Shape& shape) const = 0;

  // Bytes [offset, offset + out.size()) of a required tensor. Throws Error where the disk fails.
  virtual void Read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const = 0;

  // Hints. These bytes are wanted soon: start to bring them from the disk.
  virtual void Prefetch(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const = 0;
  // These bytes were read and are not wanted again: memory that holds them for others' sake may go.
  virtual void Release(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) const = 0;
};

}  // namespace fiddler
