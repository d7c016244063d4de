#include "base/tensor.h"

#include <fmt/ranges.h>

namespace fiddler {

std::string ShapeToString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace fiddler
