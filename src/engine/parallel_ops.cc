#include "engine/parallel_ops.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {
namespace {

// A task is one panel where memory is the limit, so that the last to finish is short; a few where the
// products are, which then share the reading of x.
int64_t PanelsPerTask(int64_t tokens) { return tokens < 32 ? 1 : 4; }

int64_t NumTasks(const PackedMatrix& w, int64_t tokens) {
  const int64_t panels = PanelsPerTask(tokens);
  return (w.num_panels() + panels - 1) / panels;
}

}  // namespace

ParallelOps::ParallelOps(const CpuKernels& kernels, ThreadPool& pool, Arithmetic arithmetic,
                         int64_t max_tokens, int64_t max_cols, Workspace& workspace)
    : kernels_(kernels),
      pool_(pool),
      arithmetic_(arithmetic),
      max_tokens_(max_tokens),
      max_cols_(max_cols),
      packed_(workspace.Bytes(max_tokens * PackedTokenBytes(max_cols))) {}

void ParallelOps::MatMul(const Activations& activations, std::span<const Product> products) const {
  const PackedMatrix& first = products.front().w;
  const int64_t tokens = activations.tokens;
  CHECK(tokens <= max_tokens_ && first.cols <= max_cols_, "{} tokens of {}", tokens, first.cols);
  const Rounding rounding = RoundingFor(first.format);
  PackArgs pack = {.rounding = rounding,
                   .tokens = tokens,
                   .cols = first.cols,
                   .x = activations.x,
                   .x_stride = activations.stride,
                   .row_index = activations.row_index,
                   .packed = packed_};
  pool_.ParallelFor(kernels_.num_tiles(rounding, tokens), [&](int64_t tile, int) {
    PackArgs part = pack;
    part.tile_begin = tile;
    part.tile_end = tile + 1;
    kernels_.pack(part);
  });

  int64_t tasks = 0;
  for (const Product& product : products) {
    CHECK(product.w.format == first.format && product.w.cols == first.cols);
    tasks += NumTasks(product.w, tokens);
  }
  pool_.ParallelFor(tasks, [&](int64_t task, int) {
    const Product* product = products.data();
    while (task >= NumTasks(product->w, tokens)) task -= NumTasks(product++->w, tokens);
    const int64_t begin = task * PanelsPerTask(tokens);
    kernels_.mat_mul({.w = product->w,
                      .panel_begin = begin,
                      .panel_end = std::min(begin + PanelsPerTask(tokens), product->w.num_panels()),
                      .rounding = rounding,
                      .tokens = tokens,
                      .x = packed_,
                      .bias = product->bias,
                      .y = product->y,
                      .y_stride = product->w.rows});
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
