// Attention of 16 queries at a time on tensor cores over a BF16 cache: how blocks of the cache come through
// shared memory, and what a warp does with one.
//
// The layout of the cache (kernels/kv_view.h) is that of fragments. A lane 4 g + q loads 16 bytes, and with
// them words of four tiles of an mma:
//   keys    pair of dimensions 4 i + q, positions 4 g to 4 g + 3: word j is b's of tile j, whose column n is
//           position 4 n + j. So a lane's scores are those of 8 positions in a row, 8 q to 8 q + 7: of tile
//           j, column 2 q is position 8 q + j, and column 2 q + 1 position 8 q + 4 + j.
//   values  pair of positions 4 q + 2 t + e, dimensions 4 g to 4 g + 3 of a run of 32: word j is b's of tile
//           j, whose column n is dimension 4 n + j. With mma t of two, k pair q being pair of positions
//           4 q + 2 t and k pair q + 4 the next one, a lane's own weights are its words of a.
// Nothing is transposed, and no number goes to another lane but the largest score.
#pragma once

#include "kernels/cuda/attend.cuh"

namespace fiddler::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kChunkBytes = 16;
inline constexpr int kRowBytes = kKvBlockTokens * 4;  // a pair of dimensions of all positions, or the reverse
inline constexpr int kChunksOfRow = kRowBytes / kChunkBytes;

// The keys, or the values, of a block.
template <int kHeadDim>
inline constexpr int kUnitBytes = kHeadDim / 2 * kRowBytes;

// Where in shared memory a chunk of a row is: the eight lanes that are served together read two neighbours of
// each of four rows, that here lie in different banks. `q` is the lane that reads the row.
__device__ __forceinline__ int ChunkOffset(int row, int chunk, int q) {
  return row * kRowBytes + (chunk ^ 2 * q) * kChunkBytes;
}

// Brings the keys, then the values, of every `step`th block of a range to shared memory, kSlots - 1 units
// ahead of whoever takes them. All kThreads threads call everything, in the same order: Start, then in turn
// TakeKeys and TakeValues. What they gave is there until the next of these.
template <int kHeadDim, int kThreads, int kSlots>
class KvStream {
 public:
  static constexpr int kBytes = kSlots * kUnitBytes<kHeadDim>;

  __device__ __forceinline__ KvStream(const AttendParams& params, const std::byte* kv_head,
                                      const int32_t* table, KvRange range, int step, std::byte* slots,
                                      int thread)
      : params_(params),
        kv_head_(kv_head),
        table_(table),
        next_(range.begin),
        end_(range.end),
        step_(step),
        slots_(slots),
        thread_(thread) {}

  __device__ __forceinline__ void Start() {
    if (next_ < end_) block_ = table_[next_];
#pragma unroll
    for (int unit = 0; unit < kSlots - 1; ++unit) unit % 2 == 0 ? FetchKeys(unit) : FetchValues(unit);
  }
  __device__ __forceinline__ const std::byte* TakeKeys() {
    const int slot = Take();
    FetchValues((slot + kSlots - 1) % kSlots);
    return slots_ + slot * kUnit;
  }
  __device__ __forceinline__ const std::byte* TakeValues() {
    const int slot = Take();
    FetchKeys((slot + kSlots - 1) % kSlots);
    return slots_ + slot * kUnit;
  }

 private:
  static_assert(kSlots % 2 == 0, "the unit kSlots - 1 ahead of keys is one of values");
  static constexpr int kUnit = kUnitBytes<kHeadDim>;

  __device__ __forceinline__ int Take() {
    CopyAsyncWait<kSlots - 2>();
    // What the others copied is there as well; and they have read the unit before, whose slot is filled next.
    if constexpr (kThreads == kWarp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
    const int slot = slot_;
    slot_ = (slot_ + 1) % kSlots;
    return slot;
  }
  __device__ __forceinline__ const std::byte* Keys() const { return kv_head_ + block_ * params_.block_bytes; }
  __device__ __forceinline__ void FetchKeys(int slot) {
    if (next_ < end_) Fetch</*kValues=*/false>(slot, Keys());
    CopyAsyncCommit();
  }
  __device__ __forceinline__ void FetchValues(int slot) {
    if (next_ < end_) {
      Fetch</*kValues=*/true>(slot, Keys() + kUnit);
      next_ += step_;
      if (next_ < end_) block_ = table_[next_];  // on its way until the next unit is taken
    }
    CopyAsyncCommit();
  }
  template <bool kValues>
  __device__ __forceinline__ void Fetch(int slot, const std::byte* from) {
    std::byte* const to = slots_ + slot * kUnit;
#pragma unroll
    for (int i = 0; i < kUnit / kChunkBytes / kThreads; ++i) {
      // Chunk i * kThreads + thread, such that the compiler sees how little depends on i.
      constexpr int kRows = kThreads / kChunksOfRow;
      const int row = thread_ / kChunksOfRow;
      const int q = kValues ? i * (kRows / 4) % 4 + row / 4 : row % 4;
      CopyAsync16(to + i * kRows * kRowBytes + ChunkOffset(row, thread_ % kChunksOfRow, q),
                  from + (i * kThreads + thread_) * kChunkBytes);
    }
  }

  const AttendParams& params_;
  const std::byte* kv_head_;
  const int32_t* table_;
  int32_t block_ = 0;  // of the unit to fetch
  int next_;           // its index in the table
  int end_;
  int step_;
  std::byte* slots_;
  int thread_;
  int slot_ = 0;  // to take
};

// What a warp has of kTiles x 16 queries, whose tokens are positions [first_newest, last_newest] of a
// sequence.
template <int kHeadDim, int kTiles>
struct WarpState {
  int first_newest;
  int last_newest;  // -1: no queries at all
  // Lane 4 g + q: of rows g and g + 8.
  int newest[kTiles][2];                // -1: no such query
  float top[kTiles][2];                 // m
  float total[kTiles][4];               // of weights: every column of a tile is the same
  float sums[kTiles][kHeadDim / 8][4];  // tile 4 r + j: column n is dimension 32 r + 4 n + j

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      top[m][0] = top[m][1] = kLowestFloat;
#pragma unroll
      for (int c = 0; c < 4; ++c) total[m][c] = 0;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[m][n][c] = 0;
      }
    }
  }

  // The sums were relative to another m.
  __device__ __forceinline__ void Scale(int m, const float (&factor)[2]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) total[m][c] *= factor[c / 2];
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[m][n][c] *= factor[c / 2];
    }
  }
};

__device__ __forceinline__ uint4 LoadChunk(const std::byte* unit, int offset) {
  return *reinterpret_cast<const uint4*>(unit + offset);
}

// scores[m][j] = q k of tile j. `q`: fragments [kTiles][head_dim / 16][lanes] in shared memory.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void Scores(const uint4* q, const std::byte* keys, int lane,
                                       float (&scores)[kTiles][4][4]) {
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) scores[m][j][c] = 0;
    }
  }
#pragma unroll 2
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint4 low = LoadChunk(keys, ChunkOffset(8 * step + lane % 4, lane / 4, lane % 4));
    const uint4 high = LoadChunk(keys, ChunkOffset(8 * step + 4 + lane % 4, lane / 4, lane % 4));
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      const uint4 fragment = q[(m * (kHeadDim / 16) + step) * kWarp + lane];
      const uint32_t a[4] = {fragment.x, fragment.y, fragment.z, fragment.w};
      MmaBf16(scores[m][0], a, low.x, high.x);
      MmaBf16(scores[m][1], a, low.y, high.y);
      MmaBf16(scores[m][2], a, low.z, high.z);
      MmaBf16(scores[m][3], a, low.w, high.w);
    }
  }
}

// From scores to weights, rounded, as words of a: weights[m][t] for mma t.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void Weights(const AttendParams& params, int first_position, int lane,
                                        float (&scores)[kTiles][4][4], WarpState<kHeadDim, kTiles>& state,
                                        uint32_t (&weights)[kTiles][2][4]) {
  const bool all_seen = first_position + kKvBlockTokens - 1 <= state.first_newest &&
                        first_position >= params.Oldest(state.last_newest);
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[m][j][c] *= params.scale;
        if (all_seen) continue;
        const int position = first_position + 8 * (lane % 4) + 4 * (c % 2) + j;
        const int newest = state.newest[m][c / 2];
        if (position > newest || position < params.Oldest(newest)) scores[m][j][c] = -INFINITY;
      }
    }
    float top[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = fmaxf(scores[m][0][2 * h], scores[m][0][2 * h + 1]);
#pragma unroll
      for (int j = 1; j < 4; ++j) top[h] = fmaxf(top[h], fmaxf(scores[m][j][2 * h], scores[m][j][2 * h + 1]));
      top[h] = fmaxf(top[h], __shfl_xor_sync(kWholeWarp, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(kWholeWarp, top[h], 2));
      top[h] = fmaxf(state.top[m][h], rintf(top[h]));
    }
    // m, being whole, is soon what it stays.
    const bool is_new = top[0] != state.top[m][0] || top[1] != state.top[m][1];
    if (__ballot_sync(kWholeWarp, is_new) != 0) {
      const float factor[2] = {Exp2(state.top[m][0] - top[0]), Exp2(state.top[m][1] - top[1])};
      state.Scale(m, factor);
      state.top[m][0] = top[0];
      state.top[m][1] = top[1];
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        weights[m][c % 2][2 * pair + c / 2] = PackBf16(Exp2(scores[m][2 * pair][c] - top[c / 2]),
                                                       Exp2(scores[m][2 * pair + 1][c] - top[c / 2]));
      }
    }
  }
}

// What of a word is values of two positions that some query sees: nobody need have written the others, and
// 0 times NaN is NaN.
__device__ __forceinline__ uint32_t SeenMask(int position, int oldest, int newest) {
  const auto seen = [&](int p) { return p >= oldest && p <= newest; };
  return (seen(position) ? 0xffffu : 0u) | (seen(position + 1) ? 0xffff0000u : 0u);
}
__device__ __forceinline__ void Mask(uint4& words, uint32_t mask) {
  words.x &= mask;
  words.y &= mask;
  words.z &= mask;
  words.w &= mask;
}

template <int kHeadDim, int kTiles>
__device__ __forceinline__ void AddValues(const AttendParams& params, int first_position, int lane,
                                          const uint32_t (&weights)[kTiles][2][4], const std::byte* values,
                                          WarpState<kHeadDim, kTiles>& state) {
  constexpr uint32_t kOnes = 0x3f803f80;
  const int g = lane / 4;
  const int q = lane % 4;
  const int oldest = params.Oldest(state.first_newest);
  const int newest = state.last_newest;
  const bool all_written = first_position >= oldest && first_position + kKvBlockTokens - 1 <= newest;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const int position = first_position + 8 * q + 4 * t;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) MmaBf16(state.total[m], weights[m][t], kOnes, kOnes);
#pragma unroll
    for (int r = 0; r < kHeadDim / 32; ++r) {
      const int row = kKvBlockTokens / 2 * r + 4 * q + 2 * t;
      uint4 low = LoadChunk(values, ChunkOffset(row, g, q));
      uint4 high = LoadChunk(values, ChunkOffset(row + 1, g, q));
      if (!all_written) {
        Mask(low, SeenMask(position, oldest, newest));
        Mask(high, SeenMask(position + 2, oldest, newest));
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        MmaBf16(state.sums[m][4 * r], weights[m][t], low.x, high.x);
        MmaBf16(state.sums[m][4 * r + 1], weights[m][t], low.y, high.y);
        MmaBf16(state.sums[m][4 * r + 2], weights[m][t], low.z, high.z);
        MmaBf16(state.sums[m][4 * r + 3], weights[m][t], low.w, high.w);
      }
    }
  }
}

// All blocks that the stream, started, has, which are every `step`th of the range.
template <int kHeadDim, int kTiles, class Stream>
__device__ __forceinline__ void AttendBlocks(const AttendParams& params, KvRange range, int step, int lane,
                                             const uint4* q, Stream& stream,
                                             WarpState<kHeadDim, kTiles>& state) {
  state.Clear();
  for (int b = range.begin; b < range.end; b += step) {
    const int first_position = b * kKvBlockTokens;
    const bool seen = first_position <= state.last_newest &&
                      first_position + kKvBlockTokens - 1 >= params.Oldest(state.first_newest);
    uint32_t weights[kTiles][2][4];
    const std::byte* const keys = stream.TakeKeys();
    if (seen) {
      float scores[kTiles][4][4];
      Scores<kHeadDim, kTiles>(q, keys, lane, scores);
      Weights<kHeadDim, kTiles>(params, first_position, lane, scores, state, weights);
    }
    const std::byte* const values = stream.TakeValues();
    if (seen) AddValues<kHeadDim, kTiles>(params, first_position, lane, weights, values, state);
  }
}

}  // namespace fiddler::cuda
