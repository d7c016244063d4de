#include <algorithm>
#include <numbers>

#include "device/cuda/op_checks.h"
#include "device/cuda/ops.h"
#include "device/scratch.h"
#include "kernels/cuda/attend_simple.cuh"
#include "kernels/cuda/attend_tensor.cuh"
#include "kernels/kv_view.h"

namespace fiddler::cuda {

namespace {

static_assert(kKvBlockTokens == KvLayout::kBlockTokens);

constexpr const char* kOp = "attend";
constexpr int64_t kMostPositions = int64_t{1} << 30;
constexpr int64_t kMostBlocks = int64_t{0x7fffffff};  // of a grid

[[noreturn]] void Fail(const std::string& what) { throw std::runtime_error("attend: " + what); }

AttendParams Check(const FiddlerAttend& args) {
  const FiddlerKv& kv = args.kv;
  RequireSize(kOp, "tokens", args.batch.tokens, 0, kMostPositions);
  RequireSize(kOp, "table_stride", args.batch.table_stride, 1, kMostPositions / KvLayout::kBlockTokens);
  RequireSize(kOp, "kv_heads", kv.kv_heads, 1, 1 << 16);
  RequireSize(kOp, "head_dim", kv.head_dim, 1, 1 << 16);
  RequireSize(kOp, "num_heads", args.num_heads, 1, 1 << 16);
  RequireSize(kOp, "window", args.window, 0, kMostPositions);
  if (kv.dtype != static_cast<int32_t>(DType::kF32) && kv.dtype != static_cast<int32_t>(DType::kBF16)) {
    Fail("no KV cache is of type " + std::to_string(kv.dtype));
  }
  if (args.num_heads % kv.kv_heads != 0) {
    Fail(std::to_string(args.num_heads) + " heads over " + std::to_string(kv.kv_heads) + " KV heads");
  }
  const KvLayout layout = {.dtype = static_cast<DType>(kv.dtype), .head_dim = kv.head_dim};
  RequireAligned(kOp, "keys and values", kv.layer, 64);
  RequireSize(kOp, "head_stride", kv.head_stride, kv.kv_heads == 1 ? 0 : layout.bytes(), int64_t{1} << 44);
  if (kv.head_stride % 64 != 0)
    Fail("head_stride: " + std::to_string(kv.head_stride) + " is no multiple of 64");
  return {.tokens = static_cast<int>(args.batch.tokens),
          .positions = At<const int32_t>(args.batch.positions),
          .sequences = At<const int32_t>(args.batch.sequences),
          .block_tables = At<const int32_t>(args.batch.block_tables),
          .table_stride = args.batch.table_stride,
          .num_heads = static_cast<int>(args.num_heads),
          .group = static_cast<int>(args.num_heads / kv.kv_heads),
          .head_dim = static_cast<int>(kv.head_dim),
          .q = At<const float>(args.q),
          .out = At<float>(args.out),
          .window = static_cast<int>(args.window),
          .scale = args.scale * std::numbers::log2e_v<float>,
          .layer = At<const std::byte>(kv.layer),
          .head_stride = kv.head_stride,
          .block_bytes = layout.bytes(),
          .key_bytes = layout.key_cells() * KvLayout::kCellBytes,
          .splits = 1,
          .sums = nullptr,
          .stats = nullptr};
}

// In how many splits the positions go: so that `blocks`, those that one split has at least, become `wanted`.
int ChooseSplits(const AttendParams& params, int64_t blocks, int64_t wanted, int64_t least) {
  const int64_t queries = int64_t{params.tokens} * params.num_heads;
  return static_cast<int>(
      std::max<int64_t>(1, std::min({wanted / blocks, (params.table_stride + least - 1) / least, kAttendParts,
                                     kAttendPartials / queries})));
}

// Gives the splits their memory.
void TakeScratch(const OpContext& context, AttendParams& params) {
  if (params.splits == 1) return;
  const uint64_t partials = uint64_t(params.tokens) * uint64_t(params.num_heads) * uint64_t(params.splits);
  const uint64_t needed = partials * uint64_t(params.head_dim + 2) * sizeof(float);
  if (needed > context.scratch_bytes) {
    Fail("scratch: needs " + std::to_string(needed) + " bytes, has " + std::to_string(context.scratch_bytes));
  }
  params.sums = reinterpret_cast<float*>(context.scratch);
  params.stats = params.sums + partials * uint64_t(params.head_dim);
}

dim3 Grid(int64_t blocks) {
  if (blocks > kMostBlocks) Fail("expected at most 2^31 - 1 blocks, got " + std::to_string(blocks));
  return dim3(static_cast<unsigned>(blocks));
}

// On ordinary arithmetic: 8 blocks of 4 warps keep a multiprocessor busy.
void AttendSimple(const OpContext& context, AttendParams& params, bool is_bf16) {
  const int64_t chunks = CeilDiv(params.head_dim, kSimpleDims);
  const int64_t warps = int64_t{params.tokens} * params.num_heads * chunks;
  params.splits = ChooseSplits(params, warps, int64_t{context.num_sms} * 32, kSimpleLeastBlocks);
  TakeScratch(context, params);
  constexpr int64_t kWarps = kSimpleThreads / kWarp;
  Launch("attend", {.grid = Grid(CeilDiv(warps * params.splits, kWarps)), .block = dim3(kSimpleThreads)},
         context.stream, is_bf16 ? AttendSimpleKernel<true> : AttendSimpleKernel<false>, params);
}

// On tensor cores: two blocks keep a multiprocessor busy.
template <int kHeadDim>
void AttendTensor(const OpContext& context, AttendParams& params) {
  using Shape = TensorShape<kHeadDim>;
  const int heads = std::min(params.group, Shape::kQueries);
  const int tokens = Shape::kQueries / heads;
  const QueryTiles tiles = {.tokens = tokens,
                            .heads = heads,
                            .head_tiles = (params.group + heads - 1) / heads,
                            .run_slots = std::min({kRunSlots, tokens, params.tokens}),
                            .kv_heads = params.num_heads / params.group};
  // At least: as many as there are if all tokens are of one sequence.
  const int64_t blocks = int64_t{(params.tokens + tokens - 1) / tokens} * tiles.kv_heads * tiles.head_tiles;
  params.splits = ChooseSplits(params, blocks, int64_t{context.num_sms} * 2, kTensorLeastBlocks);
  TakeScratch(context, params);
  Launch("attend",
         {.grid = Grid(blocks * tiles.run_slots * params.splits),
          .block = dim3(kTensorThreads),
          .shared_bytes = Shape::kBytes},
         context.stream, AttendTensorKernel<kHeadDim>, params, tiles);
}

// False: there is no such kernel for these heads, or q or out are not such that 16 bytes of them can be read.
bool AttendTensor(const OpContext& context, AttendParams& params) {
  const auto aligned = [](const float* x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; };
  if (!aligned(params.q) || !aligned(params.out)) return false;
  switch (params.head_dim) {
    case 64:
      AttendTensor<64>(context, params);
      return true;
    case 96:
      AttendTensor<96>(context, params);
      return true;
    case 128:
      AttendTensor<128>(context, params);
      return true;
    case 192:
      AttendTensor<192>(context, params);
      return true;
    case 256:
      AttendTensor<256>(context, params);
      return true;
    default:
      return false;
  }
}

}  // namespace

void Attend(OpContext& context, const FiddlerAttend& args) {
  AttendParams params = Check(args);
  if (params.tokens == 0) return;
  const bool is_bf16 = args.kv.dtype == static_cast<int32_t>(DType::kBF16);
  if (!is_bf16 || !AttendTensor(context, params)) AttendSimple(context, params, is_bf16);
  if (params.splits == 1) return;
  Launch("attend",
         {.grid = Grid(int64_t{params.tokens} * params.num_heads),
          .block = dim3(kMergeThreads),
          .shared_bytes = kMergeSharedBytes},
         context.stream, AttendMergeKernel, params);
}

}  // namespace fiddler::cuda
