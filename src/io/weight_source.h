// Where the loader of a model takes its weights from: a checkpoint on disk (checkpoint.h), or made up in
// memory (dummy_weights.h). The source owns the bytes; views are valid as long as the source is and until
// Release(). Every method may be called from several threads.
#pragma once

#include <string>
#include <string_view>

#include "base/tensor.h"

namespace fiddler {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Whether the source stores a tensor of that name: for tensors that a model may or may not have, such as a
  // bias. DummyWeights says no to every name: it makes what is required and nothing more.
  virtual bool Has(std::string_view name) const = 0;

  // The tensor as it is stored, of whatever type and shape, or nullptr: for formats that need a decoder.
  virtual const TensorView* Find(std::string_view name) const = 0;

  // The tensor of that name, with exactly that shape, of a float type we compute with (F32, F16, BF16) and
  // aligned to its element size. Throws Error naming file, tensor, expected and got.
  virtual TensorView Require(std::string_view name, const Shape& shape) = 0;

  // The caller has copied the tensor and will not look at this view again: its memory may be given back to
  // the system. Requiring the name once more is allowed and reads it, or makes it, anew with the same values.
  virtual void Release(const TensorView& tensor) = 0;
};

}  // namespace fiddler
