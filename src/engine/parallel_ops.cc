#include "engine/parallel_ops.h"

#include <algorithm>

namespace fiddler {

void ParallelOps::MatMul(std::span<const MatMulArgs> products) const {
  int64_t tasks = 0;
  for (const MatMulArgs& product : products) tasks += NumRowTasks(product.w.rows);
  pool_.ParallelFor(tasks, [&](int64_t task, int) {
    const MatMulArgs* product = products.data();
    while (task >= NumRowTasks(product->w.rows)) task -= NumRowTasks(product++->w.rows);
    MatMulArgs part = *product;
    part.row_begin = task * kRowsPerTask;
    part.row_end = std::min(part.row_begin + kRowsPerTask, part.w.rows);
    kernels_.mat_mul(part);
  });
}

void ParallelOps::Norm(int64_t tokens, const float* x, std::span<const float> weight, float epsilon,
                       float* y) const {
  const auto width = static_cast<int64_t>(weight.size());
  ForEachToken(tokens, [&](int64_t t) {
    kernels_.rms_norm({.rows = 1,
                       .cols = width,
                       .x = x + t * width,
                       .x_stride = width,
                       .y = y + t * width,
                       .y_stride = width,
                       .weight = weight.data(),
                       .epsilon = epsilon});
  });
}

void ParallelOps::Add(int64_t tokens, int64_t width, const float* branch, float* hidden) const {
  ForEachToken(tokens, [&](int64_t t) { kernels_.add(width, branch + t * width, hidden + t * width); });
}

}  // namespace fiddler
