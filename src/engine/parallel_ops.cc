#include "engine/parallel_ops.h"

#include <algorithm>

#include "base/check.h"

namespace fiddler {
namespace {

// Where arithmetic becomes the limit (docs/performance.md, tokens on one expert).
constexpr int64_t kManyTokens = 32;

// Panels of a product, cut into tasks.
struct Tasks {
  Tasks(const PackedMatrix& w, int64_t tokens, int threads)
      : panels(w.num_panels()),
        // Of one panel where memory is the limit, so that the last to finish is short.
        per_task(tokens < kManyTokens ? 1 : PanelsPerTask(panels, threads)) {}

  int64_t count() const { return (panels + per_task - 1) / per_task; }

  int64_t panels;
  int64_t per_task;
};

}  // namespace

int64_t PanelsPerTask(int64_t panels, int threads) {
  // 4 panels read x 4 times as often: prefill 512 of mixtral-4l at 74.5% of the arithmetic peak, not 82.5%.
  // 16 of a slice's down matrix (8 KB each) are also one block (kernels/cpu/panel.h).
  constexpr int64_t kMost = 16;
  constexpr int64_t kTasksPerThread = 4;  // the last one to finish is waited for
  return std::clamp<int64_t>(panels / (kTasksPerThread * threads), 1, kMost);
}

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
    tasks += Tasks(product.w, tokens, pool_.num_threads()).count();
  }
  pool_.ParallelFor(tasks, [&](int64_t task, int) {
    const Product* product = products.data();
    Tasks of_product(product->w, tokens, pool_.num_threads());
    for (; task >= of_product.count(); of_product = Tasks(product->w, tokens, pool_.num_threads())) {
      task -= of_product.count();
      ++product;
    }
    const int64_t begin = task * of_product.per_task;
    kernels_.mat_mul({.w = product->w,
                      .panel_begin = begin,
                      .panel_end = std::min(begin + of_product.per_task, of_product.panels),
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
