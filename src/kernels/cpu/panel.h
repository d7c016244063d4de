// mat_mul and gate_up over the panels of packed weights, for any core.
//
// A Core multiplies one panel, or one group after another of it, with a tile of tokens; the sums of a tile
// stay in registers: [kVectors][T] of them, 32 rows by T tokens, each one chain of additions in rising order
// of columns. That order is the same for every T, which is what makes a batch equal its tokens alone.
//
// A Core has
// - S: the Simd of the sums;
// - kVectors: registers of a panel's rows;
// - kMaxTokens: of a tile;
// - kColumnBytes: of one token of x as it is packed;
// - kChunkGroups: a core that fetches ahead does so once for as many groups;
// - Run<T>(w, x, groups, ahead, sums): the sums of that many groups, from a panel of weights and a tile of x
//   as its pack laid it out.
//
// One tile: memory is the limit, and the panels stream by once. More: a block of panels is used from L2 by
// one tile of tokens after another, while each fetches its part of the next block.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/runs.h"
#include "kernels/ops.h"

namespace fiddler {

template <int kLevel>
[[gnu::always_inline]] inline void Prefetch(uintptr_t address) {
  _mm_prefetch(reinterpret_cast<const char*>(address), kLevel == 1 ? _MM_HINT_T0 : _MM_HINT_T1);
}

// What to fetch into L2 while tiles are multiplied: so many bytes for every chunk of weights that they read.
// Addresses, since nothing need be there.
struct Ahead {
  uintptr_t next;
  uintptr_t end;
  int64_t chunk_bytes;

  [[gnu::always_inline]] void Fetch() {
    const uintptr_t stop = static_cast<int64_t>(end - next) < chunk_bytes ? end : next + chunk_bytes;
    for (; next < stop; next += kCacheLine) Prefetch<2>(next);
  }
};

// How far ahead in its own stream a tile fetches, from memory or, for several tiles, from L2. At 8 tokens 1
// KB made 0.66, 2 KB 0.74, 4 KB 0.88 of a plain read on Zen 5; at 16 tokens 4 KB made 0.67 and 8 KB, with
// smaller blocks, 0.71.
constexpr int64_t kStreamAhead = 8192;

template <int kLines>
[[gnu::always_inline]] inline void FetchStream(const std::byte* w) {
#pragma GCC unroll 2
  for (int i = 0; i < kLines; ++i) {
    Prefetch<1>(reinterpret_cast<uintptr_t>(w) + kStreamAhead + i * kCacheLine);
  }
}

// Calls body(first, Size<T>) for tiles [begin, end) of a packed x. Pack and the products share it.
template <class Core, class Body>
[[gnu::always_inline]] inline void ForEachTile(int64_t tokens, int64_t begin, int64_t end, const Body& body) {
  ForEachRun<Core::kMaxTokens>(tokens, begin, end, body);
}

// Panels and tiles that meet while both are in L2 (1 MB), next to the block of panels that is fetched for
// later. Small blocks of panels, since the first of a call is fetched ahead only if the caller said so
// (next).
constexpr int64_t kBlockBytes = 128 * 1024;
constexpr int64_t kTilesBytes = 512 * 1024;

// A tile of a segment was packed by another core and is too short for the hardware to see it coming. A longer
// one would push the weights out of L1.
constexpr int64_t kShortTileBytes = 8192;

[[gnu::always_inline]] inline void FetchTile(const std::byte* x, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCacheLine) Prefetch<1>(reinterpret_cast<uintptr_t>(x) + i);
}

// Calls store(panel, segment, first token, sums) with the sums of every panel in [panel_begin, panel_end),
// segment and tile; segments in order.
template <class Core, class Store>
[[gnu::always_inline]] inline void MultiplyPanels(const MatMulArgs& args, const Store& store) {
  const int64_t groups = args.w.num_groups();
  const int64_t token_bytes = PackedTokenBytes(args.w.cols);
  const int64_t panel_bytes = args.w.panel_bytes();
  const int64_t panels = args.panel_end - args.panel_begin;
  const int64_t fit = kBlockBytes / panel_bytes;
  const int64_t blocks = fit < 1 ? panels : (panels + fit - 1) / fit;
  const int64_t tiles = NumRuns<Core::kMaxTokens>(args.tokens);
  // + 1: without columns the division has a divisor all the same.
  const int64_t tiles_fit = kTilesBytes / (Core::kMaxTokens * Core::kColumnBytes * (args.w.cols + 1));
  const int64_t tile_block = args.segments > 1 || tiles_fit >= tiles ? tiles : tiles_fit < 2 ? 2 : tiles_fit;
  const auto panel_of = [&](int64_t block) { return args.panel_begin + panels * block / blocks; };
  for (int64_t tile_begin = 0; tile_begin < tiles; tile_begin += tile_block) {
    const int64_t tile_end = tiles - tile_begin < tile_block ? tiles : tile_begin + tile_block;
    for (int64_t segment = 0; segment < args.segments; ++segment) {
      const bool last_segment = segment + 1 == args.segments;
      const std::byte* const w = args.w.data + segment * args.w_segment_bytes;
      const std::byte* const x = args.x + segment * args.x_segment_bytes;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = panel_of(block);
        const int64_t end = panel_of(block + 1);
        const std::byte* next = args.next;  // where the block after this one is, if there is one
        int64_t next_panels = panel_of(1) - args.panel_begin;
        if (block + 1 < blocks) {
          next = w + end * panel_bytes;
          next_panels = panel_of(block + 2) - end;
        } else if (!last_segment) {
          next = w + args.w_segment_bytes + args.panel_begin * panel_bytes;
        } else if (tile_end < tiles) {
          next = args.w.Panel(args.panel_begin);
        }
        // One tile and no segments: a tile reads on where it is, which FetchStream or the hardware sees.
        if (next == nullptr || (tiles == 1 && args.segments == 1)) next_panels = 0;
        const int64_t runs = (tile_end - tile_begin) * (end - begin);
        const int64_t chunks = runs * (groups / Core::kChunkGroups + (groups % Core::kChunkGroups > 0));
        const int64_t lines = chunks == 0 ? 0 : next_panels * panel_bytes / kCacheLine;
        const auto from = reinterpret_cast<uintptr_t>(next);
        Ahead ahead = {.next = from,
                       .end = from + lines * kCacheLine,
                       .chunk_bytes = lines == 0 ? 0 : (lines + chunks - 1) / chunks * kCacheLine};
        // A function for each size of tile, not all of them in one: compilers take their time for that.
        ForEachTile<Core>(
            args.tokens, tile_begin, tile_end, [&](int64_t first, auto size) __attribute__((noinline)) {
              constexpr int kTile = decltype(size)::kValue;
              const std::byte* const tile_x = x + first * token_bytes;
              const int64_t tile_bytes = kTile * Core::kColumnBytes * args.w.cols;
              if (args.segments > 1 && tile_bytes <= kShortTileBytes) {
                if (first + kTile < args.tokens) {
                  FetchTile(tile_x + kTile * token_bytes, tile_bytes);
                } else if (!last_segment) {
                  FetchTile(x + args.x_segment_bytes, tile_bytes);
                }
              }
              for (int64_t panel = begin; panel < end; ++panel) {
                typename Core::S::Reg sums[Core::kVectors][kTile];
                Core::Run(w + panel * panel_bytes, tile_x, groups, ahead, sums);
                store(panel, segment, first, sums);
              }
            });
      }
    }
  }
}

// The part of an array of `count` rows that vector `v` of a panel covers.
template <class S>
struct PanelPart {
  int64_t begin;
  int64_t count;  // less than kWidth at the end; not positive past it

  typename S::Reg Load(const float* p) const {
    return count >= S::kWidth ? S::Load(p + begin) : S::LoadFirst(p + begin, count);
  }
  void Store(float* p, typename S::Reg a) const {
    if (count >= S::kWidth) return S::Store(p + begin, a);
    S::StoreFirst(p + begin, count, a);
  }
};

template <class Core>
void MatMulPanels(const MatMulArgs& args) {
  using S = typename Core::S;
  MultiplyPanels<Core>(
      args, [&]<int V, int T>(int64_t panel, int64_t segment, int64_t first, typename S::Reg(&sums)[V][T])
                __attribute__((always_inline)) {
                  float* const y = args.y + first * args.y_stride;
#pragma GCC unroll 4
                  for (int v = 0; v < V; ++v) {
                    const int64_t row = panel * kPanelRows + v * S::kWidth;
                    const PanelPart<S> part{row, args.w.rows - row};
                    if (part.count <= 0) break;
#pragma GCC unroll 16
                    for (int t = 0; t < T; ++t) {
                      typename S::Reg sum = sums[v][t];
                      if (segment > 0) {
                        sum = S::Add(part.Load(y + t * args.y_stride), sum);
                      } else if (args.bias != nullptr) {
                        sum = S::Add(sum, part.Load(args.bias));
                      }
                      part.Store(y + t * args.y_stride, sum);
                    }
                  }
                });
}

template <class Core>
void GateUpPanels(const GateUpArgs& args) {
  using S = typename Core::S;
  const MatMulArgs product = {.w = args.w,
                              .panel_begin = args.panel_begin,
                              .panel_end = args.panel_end,
                              .rounding = args.rounding,
                              .tokens = args.tokens,
                              .x = args.x};
  MultiplyPanels<Core>(
      product, [&]<int V, int T>(int64_t panel, int64_t, int64_t first,
                                 typename S::Reg(&sums)[V][T]) __attribute__((always_inline)) {
        float* const h = args.h + first * args.h_stride + panel * (kPanelRows / 2);
#pragma GCC unroll 2
        for (int v = 0; v < V / 2; ++v) {
          for (int t = 0; t < T; ++t) {
            S::Store(h + t * args.h_stride + v * S::kWidth, SiluTimes<S>(sums[v][t], sums[v + V / 2][t]));
          }
        }
      });
}

}  // namespace fiddler
