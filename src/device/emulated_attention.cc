// The operations of the emulated device that know positions and the KV cache.
#include <algorithm>
#include <unordered_set>

#include "device/emulated_ops.h"

namespace fiddler::emulated {
namespace {

constexpr int64_t kMostPositions = int64_t{1} << 30;
constexpr int64_t kMostBytes = int64_t{1} << 44;  // of one KV head

// Positions whose cells one thread writes (KvWriteArgs), from a multiple of this on.
constexpr int64_t kSharedCells = 16;

}  // namespace

// Consecutive tokens of one sequence.
struct EmulatedOps::Stretch {
  int64_t row;  // of the first, in the batch
  int64_t tokens;
  int64_t position;  // of the first
  const int32_t* block_table;

  Stretch Part(int64_t offset, int64_t count) const {
    return {.row = row + offset, .tokens = count, .position = position + offset, .block_table = block_table};
  }
};

struct EmulatedOps::Batch {
  int64_t tokens = 0;
  int64_t positions = 0;  // the last of any token, and one
  std::vector<Stretch> sequences;
  KvView kv;  // without a block table

  KvView KvOf(const Stretch& stretch) const {
    KvView view = kv;
    view.block_table = stretch.block_table;
    return view;
  }
};

EmulatedOps::Batch EmulatedOps::Resolve(const FiddlerBatch& args, const FiddlerKv& kv, int64_t window,
                                        const Operands& operands) const {
  operands.RequireSize("tokens", args.tokens, 0);
  operands.RequireSize("table_stride", args.table_stride, 1);
  operands.RequireSize("kv_heads", kv.kv_heads, 1, 1 << 16);
  operands.RequireSize("head_dim", kv.head_dim, 1, 1 << 16);
  if (kv.dtype != static_cast<int32_t>(DType::kF32) && kv.dtype != static_cast<int32_t>(DType::kBF16)) {
    operands.Fail("no KV cache is of type {}", kv.dtype);
  }
  Batch batch;
  batch.tokens = args.tokens;
  batch.kv = {.layer = nullptr,
              .head_stride = kv.head_stride,
              .block_table = nullptr,
              .kv_heads = kv.kv_heads,
              .layout = {.dtype = static_cast<DType>(kv.dtype), .head_dim = kv.head_dim}};
  operands.RequireSize("head_stride", kv.head_stride, kv.kv_heads == 1 ? 0 : batch.kv.layout.bytes(),
                       kMostBytes);
  if (kv.head_stride % 64 != 0) operands.Fail("head_stride {} is no multiple of 64", kv.head_stride);
  if (args.tokens == 0) return batch;

  const std::span<const int32_t> positions = operands.Ints(args.positions, args.tokens, "positions");
  const std::span<const int32_t> sequences = operands.Ints(args.sequences, args.tokens, "sequences");
  const int64_t tables = operands.RowsNeeded(sequences, "sequences");
  const int32_t* const block_tables =
      operands.Ints(args.block_tables, tables * args.table_stride, "block_tables").data();
  std::unordered_set<int32_t> seen;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const auto token = static_cast<size_t>(t);
    operands.RequireSize("position", positions[token], 0, args.table_stride * KvLayout::kBlockTokens - 1);
    batch.positions = std::max<int64_t>(batch.positions, positions[token] + 1);
    if (t > 0 && sequences[token] == sequences[token - 1]) {
      if (positions[token] != positions[token - 1] + 1) {
        operands.Fail("token {}: position {} after {} of one sequence", t, positions[token],
                      positions[token - 1]);
      }
      ++batch.sequences.back().tokens;
      continue;
    }
    if (!seen.insert(sequences[token]).second)
      operands.Fail("token {}: sequence {} again", t, sequences[token]);
    batch.sequences.push_back({.row = t,
                               .tokens = 1,
                               .position = positions[token],
                               .block_table = block_tables + sequences[token] * args.table_stride});
  }

  int64_t blocks = 0;  // of a head, up to the last that is looked at
  for (const Stretch& sequence : batch.sequences) {
    const int64_t oldest = window > 0 ? std::max<int64_t>(0, sequence.position - window + 1) : 0;
    const int64_t last = sequence.position + sequence.tokens - 1;
    for (int64_t b = oldest / KvLayout::kBlockTokens; b <= last / KvLayout::kBlockTokens; ++b) {
      const int64_t block = sequence.block_table[b];
      if (block < 0) operands.Fail("block_tables: positions from {} on are in block {}", b * 32, block);
      blocks = std::max(blocks, block + 1);
    }
  }
  batch.kv.layer =
      operands.Bytes(kv.layer, (kv.kv_heads - 1) * kv.head_stride + blocks * batch.kv.layout.bytes(),
                     "KV cache", Operands::kLine);
  return batch;
}

void EmulatedOps::Do(const FiddlerRotateStore& args) {
  const Operands operands(memory_, "rotate_store");
  const int64_t head_dim = args.kv.head_dim;
  // Looks at no position before its own.
  const Batch batch = Resolve(args.batch, args.kv, /*window=*/1, operands);
  operands.RequireSize("num_heads", args.num_heads, 1, 1 << 16);
  operands.RequireSize("rotary_dim", args.rotary_dim, 0, head_dim);
  if (args.rotary_dim % 2 != 0) operands.Fail("rotary_dim {} is odd", args.rotary_dim);
  if (!(args.clamp >= 0)) operands.Fail("clamp {}", args.clamp);
  const int64_t q_width = args.num_heads * head_dim;
  const int64_t kv_width = args.kv.kv_heads * head_dim;
  struct Norm {
    const float* weight;  // or null
    int64_t cols;
  };
  const auto norm_of = [&](FiddlerAddress weight, int64_t cols, int64_t width,
                           std::string_view name) -> Norm {
    if (weight == 0) return {nullptr, 0};
    operands.RequireSize(name, cols, 1, width);
    if (width % cols != 0) operands.Fail("{}: {} numbers in rows of {}", name, width, cols);
    return {operands.Floats(weight, cols, name), cols};
  };
  const Norm q_norm = norm_of(args.q_norm, args.q_norm_cols, q_width, "q_norm");
  const Norm k_norm = norm_of(args.k_norm, args.k_norm_cols, kv_width, "k_norm");
  float* const q = operands.Floats(args.q, batch.tokens * q_width, "q");
  float* const k = operands.Floats(args.k, batch.tokens * kv_width, "k");
  float* const v = operands.Floats(args.v, batch.tokens * kv_width, "v");
  const int64_t half = args.rotary_dim / 2;
  const float* const cosine = operands.Floats(args.cosine, batch.positions * half, "cosine");
  const float* const sine = operands.Floats(args.sine, batch.positions * half, "sine");

  const auto norm = [&](const Norm& n, int64_t width, float* x) {
    if (n.weight == nullptr) return;
    kernels_.rms_norm({.rows = width / n.cols,
                       .cols = n.cols,
                       .x = x,
                       .x_stride = n.cols,
                       .y = x,
                       .y_stride = n.cols,
                       .weight = n.weight,
                       .epsilon = args.epsilon});
  };
  const auto clamp = [&](int64_t width, float* x) {
    if (args.clamp == 0) return;
    for (int64_t i = 0; i < width; ++i) x[i] = std::clamp(x[i], -args.clamp, args.clamp);
  };
  const auto rotate = [&](int64_t heads, int64_t position, float* x) {
    kernels_.rope({.x = x,
                   .heads = heads,
                   .head_dim = head_dim,
                   .rotary_dim = args.rotary_dim,
                   .cos = cosine + position * half,
                   .sin = sine + position * half});
  };

  std::vector<Stretch> parts;  // none shares cells with another
  for (const Stretch& sequence : batch.sequences) {
    for (int64_t offset = 0; offset < sequence.tokens;) {
      const int64_t whole = kSharedCells - (sequence.position + offset) % kSharedCells;
      parts.push_back(sequence.Part(offset, std::min(whole, sequence.tokens - offset)));
      offset += parts.back().tokens;
    }
  }
  workers_.ForEach(static_cast<int64_t>(parts.size()), [&](int64_t index, int) {
    const Stretch& part = parts[static_cast<size_t>(index)];
    for (int64_t t = 0; t < part.tokens; ++t) {
      float* const q_row = q + (part.row + t) * q_width;
      float* const k_row = k + (part.row + t) * kv_width;
      norm(q_norm, q_width, q_row);
      norm(k_norm, kv_width, k_row);
      clamp(q_width, q_row);
      clamp(kv_width, k_row);
      clamp(kv_width, v + (part.row + t) * kv_width);
      if (half == 0) continue;
      rotate(args.num_heads, part.position + t, q_row);
      rotate(args.kv.kv_heads, part.position + t, k_row);
    }
    kernels_.kv_write({.tokens = part.tokens,
                       .first_position = part.position,
                       .k = k + part.row * kv_width,
                       .v = v + part.row * kv_width,
                       .kv = batch.KvOf(part)});
  });
}

void EmulatedOps::Do(const FiddlerAttend& args) {
  const Operands operands(memory_, "attend");
  const int64_t head_dim = args.kv.head_dim;
  operands.RequireSize("window", args.window, 0, kMostPositions);
  const Batch batch = Resolve(args.batch, args.kv, args.window, operands);
  operands.RequireSize("num_heads", args.num_heads, 1, 1 << 16);
  if (args.num_heads % args.kv.kv_heads != 0) {
    operands.Fail("{} heads over {} KV heads", args.num_heads, args.kv.kv_heads);
  }
  const int64_t group = args.num_heads / args.kv.kv_heads;
  const int64_t width = args.num_heads * head_dim;
  const float* const q = operands.Floats(args.q, batch.tokens * width, "q");
  float* const out = operands.Floats(args.out, batch.tokens * width, "out");
  operands.RequireApart(q, batch.tokens * width, out, batch.tokens * width, "q and out");

  std::vector<Stretch> tiles;
  const int64_t tile_tokens = std::max<int64_t>(1, kAttendQueries / group);
  for (const Stretch& sequence : batch.sequences) {
    for (int64_t offset = 0; offset < sequence.tokens; offset += tile_tokens) {
      tiles.push_back(sequence.Part(offset, std::min(tile_tokens, sequence.tokens - offset)));
    }
  }
  const int64_t scratch_bytes = AttendScratchBytes(head_dim);
  std::byte* const scratch = per_worker_.Bytes(workers_.count() * scratch_bytes);
  workers_.ForEach(static_cast<int64_t>(tiles.size()) * args.kv.kv_heads, [&](int64_t index, int worker) {
    const Stretch& tile = tiles[static_cast<size_t>(index / args.kv.kv_heads)];
    kernels_.attend({.tokens = tile.tokens,
                     .first_position = tile.position,
                     .window = args.window,
                     .kv_head = index % args.kv.kv_heads,
                     .group = group,
                     .scale = args.scale,
                     .q = q + tile.row * width,
                     .q_stride = width,
                     .out = out + tile.row * width,
                     .out_stride = width,
                     .scratch = scratch + worker * scratch_bytes,
                     .kv = batch.KvOf(tile)});
  });
}

}  // namespace fiddler::emulated
