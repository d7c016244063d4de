#include <algorithm>

#include "base/dtype.h"
#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "kernels/cuda/rotate_store.cuh"

namespace fiddler::cuda {
namespace {

constexpr const char* kOp = "rotate_store";

RotatedHeads Heads(FiddlerAddress x, int64_t heads, int64_t head_dim, FiddlerAddress norm, int64_t norm_cols,
                   const char* name) {
  RotatedHeads part = {.x = At<float>(x), .heads = static_cast<int>(heads)};
  if (norm == 0) return part;
  if (norm_cols != head_dim && norm_cols != heads * head_dim) {
    throw std::runtime_error(std::string(kOp) + ": " + name + ": expected a norm of a head, " +
                             std::to_string(head_dim) + ", or of all, " + std::to_string(heads * head_dim) +
                             ", got " + std::to_string(norm_cols));
  }
  part.norm = At<const float>(norm);
  part.norm_over_heads = norm_cols != head_dim;
  return part;
}

}  // namespace

void RotateStore(OpContext& context, const FiddlerRotateStore& args) {
  constexpr int64_t kMostHeads = 1 << 16;
  const FiddlerKv& kv = args.kv;
  const KvLayout layout = {.dtype = static_cast<DType>(kv.dtype), .head_dim = kv.head_dim};
  RequireSize(kOp, "tokens", args.batch.tokens, 0);
  RequireSize(kOp, "table_stride", args.batch.table_stride, 1);
  RequireSize(kOp, "num_heads", args.num_heads, 1, kMostHeads);
  RequireSize(kOp, "kv_heads", kv.kv_heads, 1, kMostHeads);
  RequireSize(kOp, "head_dim", kv.head_dim, 1, kMostRotatedDims);
  RequireAligned(kOp, "keys and values", kv.layer, 64);
  RequireSize(kOp, "rotary_dim", args.rotary_dim, 0, kv.head_dim);
  if (args.rotary_dim % 2 != 0) throw std::runtime_error("rotate_store: rotary_dim is odd");
  if (!(args.clamp >= 0)) throw std::runtime_error("rotate_store: clamp is below 0");
  if (layout.dtype != DType::kF32 && layout.dtype != DType::kBF16) {
    throw std::runtime_error("rotate_store: no KV cache is of type " + std::to_string(kv.dtype));
  }
  const RotatedHeads q = Heads(args.q, args.num_heads, kv.head_dim, args.q_norm, args.q_norm_cols, "q_norm");
  const RotatedHeads k = Heads(args.k, kv.kv_heads, kv.head_dim, args.k_norm, args.k_norm_cols, "k_norm");
  if (args.batch.tokens == 0) return;

  const int64_t heads_per_block =
      q.norm_over_heads || k.norm_over_heads ? std::max(args.num_heads, kv.kv_heads) : int64_t{kRotateWarps};
  const int64_t groups = CeilDiv(args.num_heads, heads_per_block) + 2 * CeilDiv(kv.kv_heads, heads_per_block);
  Launch(kOp,
         {.grid = dim3(static_cast<unsigned>(args.batch.tokens), static_cast<unsigned>(groups)),
          .block = dim3(kRotateThreads),
          .shared_bytes = kRotateSharedBytes},
         context.stream, layout.dtype == DType::kBF16 ? RotateStoreKernel<true> : RotateStoreKernel<false>,
         RotateStoreParams{.positions = At<const int32_t>(args.batch.positions),
                           .sequences = At<const int32_t>(args.batch.sequences),
                           .block_tables = At<const int32_t>(args.batch.block_tables),
                           .table_stride = args.batch.table_stride,
                           .q = q,
                           .k = k,
                           .v = {.x = At<float>(args.v), .heads = static_cast<int>(kv.kv_heads)},
                           .heads_per_block = static_cast<int>(heads_per_block),
                           .head_dim = static_cast<int>(kv.head_dim),
                           .half = static_cast<int>(args.rotary_dim / 2),
                           .epsilon = args.epsilon,
                           .clamp = args.clamp,
                           .cosine = At<const float>(args.cosine),
                           .sine = At<const float>(args.sine),
                           .layer = At<std::byte>(kv.layer),
                           .head_stride = kv.head_stride,
                           .block_bytes = layout.bytes(),
                           .key_bytes = layout.key_cells() * KvLayout::kCellBytes});
}

}  // namespace fiddler::cuda
