// Attention on tensor cores over a BF16 cache, for prompts, for tokens of many sequences and for both at
// once. The host knows neither positions nor sequences when it launches this: blocks find out.
//
// A block has a tile of queries: some tokens and the heads of one KV head that go with them. It looks for the
// runs of tokens of one sequence in its tile and takes one after another; so that a batch of many sequences
// keeps more blocks busy, kRunSlots blocks share the runs of a tile. In a run of more than 16 queries warps
// share the keys and values, each block of the cache coming to shared memory once for all. Where there are no
// more than that, most often those of one token, all warps have the same queries, and every warp its own
// blocks of the cache; what they found is brought together in the end.
//
// Bytes and work, for each block of the cache (32 positions) and KV head: 128 head_dim bytes once for each
// tile of queries, 128 head_dim FLOPs for each query. One token of 8 queries does 8 FLOPs a byte: memory
// limits it, hence as many splits as fill the GPU, and in each of two blocks of a multiprocessor four warps
// with a unit (64 head_dim bytes) on its way each, 64 KiB in all with heads of 128. A prompt's 128 queries do
// 128 FLOPs a byte of the second cache. Then shared memory and tensor cores limit it: for its 32 queries a
// warp reads 192 head_dim bytes, a third of them the queries, and does 4096 head_dim FLOPs, so that 128 bytes
// a cycle feed 2731 FLOPs a cycle; the tensor cores of an A100 do 2048, those of an H100 4096.
#pragma once

#include "kernels/cuda/attend_tiles.cuh"

namespace fiddler::cuda {

inline constexpr int kTensorThreads = 128;
inline constexpr int kTensorWarps = kTensorThreads / kWarp;
inline constexpr int kTensorLeastBlocks = kTensorWarps;  // of a split: one for each warp
inline constexpr int kRunSlots = 8;                      // blocks that find no run end at once

// Sizes are such that a block fits the 99 KiB of the smallest GPUs, and two fit the larger ones.
template <int kHeadDim>
struct TensorShape {
  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256);
  static constexpr int kTiles = kHeadDim <= 128 ? 2 : 1;  // of a warp: more would not fit its registers
  static constexpr int kQueries = kTensorWarps * kTiles * kTileRows;   // of a block
  static constexpr int kStreams = kHeadDim <= 128 ? kTensorWarps : 2;  // warps with blocks of their own
  static constexpr int kTileBytes = kTileRows * kHeadDim * 2;          // 16 queries
  using Shared = KvStream<kHeadDim, kTensorThreads, 4>;
  using OfWarp = KvStream<kHeadDim, kWarp, 2>;
  static constexpr int kSharedBytes = kQueries / kTileRows * kTileBytes + Shared::kBytes;
  static constexpr int kOfWarpsBytes = kTileBytes + kStreams * OfWarp::kBytes;
  static constexpr int kBytes = kSharedBytes > kOfWarpsBytes ? kSharedBytes : kOfWarpsBytes;
};

// How queries are dealt out to tiles; the host's part of the work.
struct QueryTiles {
  int tokens;      // of a tile
  int heads;       // of a tile, all of one KV head
  int head_tiles;  // of a KV head
  int run_slots;
  int kv_heads;
};

// Some tokens of one sequence, with some heads: query r is of token r / heads and head r % heads.
struct QueryRun {
  int first_token;
  int tokens;
  int first_position;
  int first_head;
  int heads;

  __device__ __forceinline__ int queries() const { return tokens * heads; }
  __device__ __forceinline__ int Newest(int r) const { return first_position + r / heads; }
  __device__ __forceinline__ int64_t Query(const AttendParams& params, int r) const {
    return params.Query(first_token + r / heads, first_head + r % heads);
  }
};

// The queries of a run, rounded, as fragments of a: [tiles of 16][head_dim / 16][lanes]. For all threads.
template <int kHeadDim>
__device__ __forceinline__ void LoadQueries(const AttendParams& params, const QueryRun& run, int thread,
                                            uint4* fragments) {
  constexpr int kSteps = kHeadDim / 16;
  const int tiles = (run.queries() + kTileRows - 1) / kTileRows;
  for (int i = thread; i < tiles * kSteps * kWarp; i += kTensorThreads) {
    const int lane = i % kWarp;
    const int dim = i / kWarp % kSteps * 16 + 2 * (lane % 4);
    uint32_t words[4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = i / kWarp / kSteps * kTileRows + lane / 4 + 8 * h;
      if (r >= run.queries()) continue;
      const float* const q = params.q + run.Query(params, r) * kHeadDim + dim;
      const float2 low = *reinterpret_cast<const float2*>(q);
      const float2 high = *reinterpret_cast<const float2*>(q + 8);
      words[h] = PackBf16(low.x, low.y);
      words[2 + h] = PackBf16(high.x, high.y);
    }
    fragments[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// Which queries of a run a warp has: from `first` on.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void TakeQueries(const QueryRun& run, int first, int lane,
                                            WarpState<kHeadDim, kTiles>& state) {
  const int queries = run.queries();
  const int last = first + kTiles * kTileRows < queries ? first + kTiles * kTileRows - 1 : queries - 1;
  state.first_newest = first < queries ? run.Newest(first) : -1;
  state.last_newest = first < queries ? run.Newest(last) : -1;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = first + m * kTileRows + 8 * h + lane / 4;
      state.newest[m][h] = r < queries ? run.Newest(r) : -1;
    }
  }
}

// Where four of a query's numbers go, of what one split has: to memory for the merge, or, if it is the only
// one, to the output.
template <int kHeadDim>
__device__ __forceinline__ void StoreFour(const AttendParams& params, int64_t query, int split, int dim,
                                          float4 sums, float total) {
  float* to = params.out + query * kHeadDim;
  if (params.splits > 1) {
    to = params.sums + (query * params.splits + split) * kHeadDim;
  } else {
    sums = {sums.x / total, sums.y / total, sums.z / total, sums.w / total};
  }
  *reinterpret_cast<float4*>(to + dim) = sums;
}
__device__ __forceinline__ void StoreStats(const AttendParams& params, int64_t query, int split, float top,
                                           float total) {
  if (params.splits == 1) return;
  float* const stats = params.stats + (query * params.splits + split) * 2;
  stats[0] = top;
  stats[1] = total;
}

// The four numbers of row h that a lane has of tiles 4 r to 4 r + 3, for dimensions 32 r + 8 q + 4 c on.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ float4 FourSums(const WarpState<kHeadDim, kTiles>& state, int m, int h, int r,
                                           int c) {
  const int i = 2 * h + c;
  return {state.sums[m][4 * r][i], state.sums[m][4 * r + 1][i], state.sums[m][4 * r + 2][i],
          state.sums[m][4 * r + 3][i]};
}

// Every warp with queries of its own, all blocks of the cache for all.
template <int kHeadDim>
__device__ __forceinline__ void AttendShared(const AttendParams& params, const QueryRun& run, KvRange range,
                                             int split, const std::byte* kv_head, const int32_t* table) {
  using Shape = TensorShape<kHeadDim>;
  constexpr int kTiles = Shape::kTiles;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  std::byte* const shared = SharedMemory();
  auto* const fragments = reinterpret_cast<uint4*>(shared);
  typename Shape::Shared stream(params, kv_head, table, range, 1,
                                shared + Shape::kQueries / kTileRows * Shape::kTileBytes, thread);
  stream.Start();
  LoadQueries<kHeadDim>(params, run, thread, fragments);  // seen by all once the first unit is

  const int first = thread / kWarp * kTiles * kTileRows;
  WarpState<kHeadDim, kTiles> state;
  TakeQueries(run, first, lane, state);
  AttendBlocks(params, range, 1, lane, fragments + first / kTileRows * (kHeadDim / 16) * kWarp, stream,
               state);

#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = first + m * kTileRows + 8 * h + lane / 4;
      if (r >= run.queries()) continue;
      const int64_t query = run.Query(params, r);
      const float total = state.total[m][2 * h];
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        StoreFour<kHeadDim>(params, query, split, i / 2 * 32 + lane % 4 * 8 + i % 2 * 4,
                            FourSums(state, m, h, i / 2, i % 2), total);
      }
      if (lane % 4 == 0) StoreStats(params, query, split, state.top[m][h], total);
    }
  }
}

// All warps with the same queries, no more than 16, each with blocks of the cache of its own.
template <int kHeadDim>
__device__ __forceinline__ void AttendOfWarps(const AttendParams& params, const QueryRun& run, KvRange range,
                                              int split, const std::byte* kv_head, const int32_t* table) {
  using Shape = TensorShape<kHeadDim>;
  using Stream = typename Shape::OfWarp;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const bool streams = warp < Shape::kStreams;
  std::byte* const shared = SharedMemory();
  auto* const fragments = reinterpret_cast<uint4*>(shared);
  std::byte* const slots = shared + Shape::kTileBytes;
  const KvRange mine = {streams ? range.begin + warp : range.end, range.end};
  Stream stream(params, kv_head, table, mine, Shape::kStreams, slots + warp * Stream::kBytes, lane);
  stream.Start();
  LoadQueries<kHeadDim>(params, run, thread, fragments);
  __syncthreads();

  WarpState<kHeadDim, 1> state;
  TakeQueries(run, 0, lane, state);
  AttendBlocks(params, mine, Shape::kStreams, lane, fragments, stream, state);

  // A warp leaves its sums [16][head_dim], then m and total of each, where its blocks were.
  static_assert(Stream::kBytes >= kTileRows * (kHeadDim + 2) * static_cast<int>(sizeof(float)));
  const auto sums_of = [&](int w) { return reinterpret_cast<float*>(slots + w * Stream::kBytes); };
  const auto stats_of = [&](int w) { return sums_of(w) + kTileRows * kHeadDim; };
  if (streams) {
    __syncwarp();  // all lanes have read what was there
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = lane / 4 + 8 * h;
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) {
        const int dim = i / 2 * 32 + lane % 4 * 8 + i % 2 * 4;
        *reinterpret_cast<float4*>(sums_of(warp) + r * kHeadDim + dim) = FourSums(state, 0, h, i / 2, i % 2);
      }
      if (lane % 4 == 0) {
        stats_of(warp)[2 * r] = state.top[0][h];
        stats_of(warp)[2 * r + 1] = state.total[0][2 * h];
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < run.queries() * (kHeadDim / 4); i += kTensorThreads) {
    const int r = i / (kHeadDim / 4);
    const int dim = i % (kHeadDim / 4) * 4;
    float top = kLowestFloat;
#pragma unroll
    for (int w = 0; w < Shape::kStreams; ++w) top = fmaxf(top, stats_of(w)[2 * r]);
    float total = 0;
    float4 sums = {0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < Shape::kStreams; ++w) {
      const float factor = Exp2(stats_of(w)[2 * r] - top);
      const float4 more = *reinterpret_cast<const float4*>(sums_of(w) + r * kHeadDim + dim);
      total += factor * stats_of(w)[2 * r + 1];
      sums.x += factor * more.x;
      sums.y += factor * more.y;
      sums.z += factor * more.z;
      sums.w += factor * more.w;
    }
    const int64_t query = run.Query(params, r);
    StoreFour<kHeadDim>(params, query, split, dim, sums, total);
    if (dim == 0) StoreStats(params, query, split, top, total);
  }
}

template <int kHeadDim>
__device__ __forceinline__ void AttendRun(const AttendParams& params, const QueryRun& run, int kv_head,
                                          int split) {
  // Asked for first, so as not to wait for it after the position.
  const int32_t* const table = params.Table(run.first_token);
  const KvRange range = SplitRange(params.Oldest(run.first_position), run.first_position + run.tokens - 1,
                                   split, params.splits, kTensorLeastBlocks);
  if (range.begin == range.end) {
    for (int r = static_cast<int>(threadIdx.x); r < run.queries(); r += kTensorThreads) {
      StoreStats(params, run.Query(params, r), split, kLowestFloat, 0);
    }
    return;
  }
  const std::byte* const keys = params.layer + kv_head * params.head_stride;
  if (run.queries() <= kTileRows) {
    AttendOfWarps<kHeadDim>(params, run, range, split, keys, table);
  } else {
    AttendShared<kHeadDim>(params, run, range, split, keys, table);
  }
  __syncthreads();  // the next run takes the same memory
}

// Tokens [begin, end) of a tile.
struct TokenRange {
  int begin;
  int end;
};

// The run of one sequence that is the `number`th of those in a tile; empty if there are not so many.
__device__ __forceinline__ TokenRange FindRun(const AttendParams& params, TokenRange tile, int number,
                                              int lane) {
  TokenRange run = {tile.end, tile.end};
  for (int from = tile.begin; from < tile.end; from += kWarp) {
    const int t = from + lane;
    const bool starts = t < tile.end && (t == tile.begin || params.sequences[t] != params.sequences[t - 1]);
    for (uint32_t word = __ballot_sync(kWholeWarp, starts); word != 0; word &= word - 1, --number) {
      if (number == 0) run.begin = from + LowestBit(word);
      if (number == -1) run.end = from + LowestBit(word);
    }
  }
  return run;
}

// Blocks: [tiles of tokens, the last first, for it sees the most][kv_heads][head_tiles][run_slots][splits].
template <int kHeadDim>
__global__ void __launch_bounds__(kTensorThreads, 2)
    AttendTensorKernel(AttendParams params, QueryTiles tiles) {
  int index = static_cast<int>(blockIdx.x);
  const auto take = [&](int count) {
    const int digit = index % count;
    index /= count;
    return digit;
  };
  const int split = take(params.splits);
  const int slot = take(tiles.run_slots);
  const int first_head = take(tiles.head_tiles) * tiles.heads;
  const int kv_head = take(tiles.kv_heads);
  const int begin = ((params.tokens + tiles.tokens - 1) / tiles.tokens - 1 - index) * tiles.tokens;
  const TokenRange tile = {begin,
                           begin + tiles.tokens < params.tokens ? begin + tiles.tokens : params.tokens};
  for (int number = slot;; number += tiles.run_slots) {
    const TokenRange run = FindRun(params, tile, number, static_cast<int>(threadIdx.x) % kWarp);
    if (run.begin == run.end) return;
    AttendRun<kHeadDim>(
        params,
        {.first_token = run.begin,
         .tokens = run.end - run.begin,
         .first_position = params.positions[run.begin],
         .first_head = kv_head * params.group + first_head,
         .heads = first_head + tiles.heads < params.group ? tiles.heads : params.group - first_head},
        kv_head, split);
  }
}

}  // namespace fiddler::cuda
