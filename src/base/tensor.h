// A look at a tensor that lives elsewhere (a mapped file, an arena): name, type, shape, bytes. Owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace fiddler {

using Shape = std::vector<int64_t>;

std::string ShapeToString(const Shape& shape);  // "[2, 3]"

struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;                       // row-major: the last dimension is contiguous
  std::span<const std::byte> bytes;  // exactly product(shape) * DTypeBytes(dtype); any alignment
};

}  // namespace fiddler
