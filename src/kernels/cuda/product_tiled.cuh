// Products with many tokens on tensor cores: a block does 4 panels (128 rows) for 64 or 128 tokens, block of
// k after block of k, which come to shared memory by asynchronous copies while the one before is multiplied.
//
// 8 warps: 4 panels by 2 halves of the tokens. For each block of k a warp reads its panel's words (64 bytes a
// lane) and those of its tokens (16 bytes a lane for every 8), and does 4 mma for every 8 tokens: with 64
// tokens a warp 2 KB + 4 KB from shared memory for 32 mma, on an A100 48 cycles of reading beside 64 of
// multiplying: tensor cores are the limit. From memory a block brings 16 KB for 128 x 128 x 32 products.
//
// Banks. Lanes 4 g + q of a quarter of a warp (two g) read chunks g of word rows that lie 128 bytes apart, so
// chunk c of a row is kept at c ^ 2 q: eight different ones. Tokens are 64 bytes each, one behind the other.
#pragma once

#include "kernels/cuda/product_args.cuh"

namespace fiddler::cuda {

inline constexpr int kTilePanels = 4;
inline constexpr int kTiledThreads = 256;
inline constexpr int kTiledStages = 4;

template <WeightFormat kFormat, int kTokens>
struct TiledStage {
  static constexpr int kScales = KBlock<kFormat>::kScales;
  static constexpr int kPanels = 0;
  static constexpr int kX = kTilePanels * KBlock<kFormat>::kBytes;
  static constexpr int kXScales = kX + kTokens * 64;
  static constexpr int kBytes = (kXScales + kTokens * 8 * kScales + 127) / 128 * 128;
};
template <WeightFormat kFormat, int kTokens>
constexpr size_t TiledSharedBytes() {
  return size_t{kTiledStages} * TiledStage<kFormat, kTokens>::kBytes;
}

// Which chunk of 16 bytes of a block is kept where.
template <WeightFormat kFormat>
__device__ __forceinline__ int SwizzledChunk(int chunk) {
  constexpr int kScaleChunks = 4;
  if constexpr (kFormat == WeightFormat::kBF16) return chunk ^ 2 * (chunk / 8 / 4 % 4);
  // A group: scales, then word rows.
  constexpr int kGroupChunks = KBlock<kFormat>::kBytes / KBlock<kFormat>::kGroups / 16;
  const int in_group = chunk % kGroupChunks - kScaleChunks;
  if (in_group < 0) return chunk;
  const int row = in_group / 8;
  const int q = kFormat == WeightFormat::kInt4 ? row % 4 : row / 4;
  return chunk - in_group + (in_group ^ 2 * q);
}

// That share an SM: two where 128 registers a thread are enough, which they are for 64 tokens of BF16.
template <WeightFormat kFormat, int kTokens>
inline constexpr int kTiledBlocksPerSm = kFormat == WeightFormat::kBF16&& kTokens <= 64 ? 2 : 1;

// Blocks: x tiles of tokens, so that those who share weights run together, y tiles of panels (of all slices,
// if gate_up), z pieces.
template <WeightFormat kFormat, int kTokens, bool kGateUp>
__global__ void __launch_bounds__(kTiledThreads, kTiledBlocksPerSm<kFormat, kTokens>)
    TiledKernel(const __grid_constant__ Tables tables, const ProductArgs args) {
  using Stage = TiledStage<kFormat, kTokens>;
  using K = KBlock<kFormat>;
  constexpr int kTiles = kTokens / 16;  // of 8 tokens, a warp's
  constexpr int kPanelChunks = K::kBytes / 16;
  constexpr int kChunks = kTilePanels * kPanelChunks;
  constexpr int kThreadChunks = (kChunks + kTiledThreads - 1) / kTiledThreads;
  constexpr int kXChunks = kTokens * 4 / kTiledThreads;
  static_assert(kTokens * 4 % kTiledThreads == 0);
  std::byte* const shared = SharedMemory();
  const Piece& piece = tables.piece(blockIdx.z);
  const int first_token = static_cast<int>(blockIdx.x) * kTokens;
  const int first_panel = static_cast<int>(blockIdx.y) * kTilePanels;
  const int panels = (kGateUp ? piece.num_slices : 1) * args.panels;
  if (first_token >= piece.tokens || first_panel >= panels) return;
  const int blocks = (kGateUp ? 1 : piece.num_slices) * args.blocks;
  const int thread = static_cast<int>(threadIdx.x);
  const TokenRows rows = {args, tables, piece, first_token};

  // 1. What this thread copies: the same chunks of every block. Panels behind the last are the last.
  // Offsets in 32 bits, for want of registers: 16 bytes of a piece's slices, words of x, scales.
  uint32_t chunk_of[kThreadChunks];
  FIDDLER_UNROLL
  for (int i = 0; i < kThreadChunks; ++i) {
    const int chunk = thread + i * kTiledThreads;
    const int panel = first_panel + chunk / kPanelChunks;
    const std::byte* const from = args.PanelOf(piece, panel < panels ? panel : panels - 1);
    chunk_of[i] = static_cast<uint32_t>((from - piece.slices) / 16 + chunk % kPanelChunks);
  }
  const auto* const x = static_cast<const uint32_t*>(args.x.values);
  uint32_t x_of[kXChunks];
  FIDDLER_UNROLL
  for (int i = 0; i < kXChunks; ++i) {
    const int chunk = thread + i * kTiledThreads;
    x_of[i] = static_cast<uint32_t>(rows(chunk / 4) * args.x.stride + chunk % 4 * 4);
  }
  const uint32_t scales_of =
      Stage::kScales > 0 && thread < kTokens ? static_cast<uint32_t>(rows(thread) * args.x.scale_stride) : 0;
  const std::byte* const slices = piece.slices;
  BlockCursor cursor(args, 0, K::kBytes);
  const auto copy = [&](int block) {
    std::byte* const stage = shared + block % kTiledStages * Stage::kBytes;
    if (block < blocks) {
      const int groups = args.groups - cursor.block() * K::kGroups;
      const uint32_t offset = cursor.offset16();
      FIDDLER_UNROLL
      for (int i = 0; i < kThreadChunks; ++i) {
        const int chunk = thread + i * kTiledThreads;
        if (kChunks % kTiledThreads != 0 && chunk >= kChunks) break;
        const int in_panel = chunk % kPanelChunks;
        std::byte* const to =
            stage + chunk / kPanelChunks * K::kBytes + SwizzledChunk<kFormat>(in_panel) * 16;
        if (in_panel / (kPanelChunks / K::kGroups) < groups) {
          CopyAsync16(to, slices + int64_t{offset + chunk_of[i]} * 16);
        } else {
          *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
        }
      }
      FIDDLER_UNROLL
      for (int i = 0; i < kXChunks; ++i) {
        CopyAsync16(stage + Stage::kX + (thread + i * kTiledThreads) * 16,
                    x + x_of[i] + static_cast<uint32_t>(block) * 16);
      }
      if (Stage::kScales > 0 && thread < kTokens) {
        std::byte* const to = stage + Stage::kXScales + thread * 8 * Stage::kScales;
        const uint2* const from = args.x.scales + scales_of + static_cast<uint32_t>(block * Stage::kScales);
        if (Stage::kScales == 1) CopyAsync8(to, from);
        if (Stage::kScales == 2) CopyAsync16(to, from);
      }
      cursor.Move(args, 1);
    }
    CopyAsyncCommit();
  };

  // 2. Multiply.
  const int lane = thread % kWarp;
  const int g = lane / 4;
  const int q = lane % 4;
  const int warp_panel = thread / kWarp % kTilePanels;
  const int warp_token = thread / kWarp / kTilePanels * (kTokens / 2);
  PanelSums sums[kTiles] = {};
  for (int block = 0; block < kTiledStages - 1; ++block) copy(block);
  for (int block = 0; block < blocks; ++block) {
    CopyAsyncWait<kTiledStages - 2>();
    __syncthreads();                 // the block is there, and the one before it has been multiplied by all
    copy(block + kTiledStages - 1);  // over that one
    const std::byte* const stage = shared + block % kTiledStages * Stage::kBytes;
    const std::byte* const panel = stage + warp_panel * K::kBytes;
    PanelBlock<kFormat> w;
    FIDDLER_UNROLL
    for (int i = 0; i < K::kScales; ++i) {
      w.scales[i] = *reinterpret_cast<const uint2*>(panel + i * (64 + 512) + 8 * g);
    }
    FIDDLER_UNROLL
    for (int i = 0; i < K::kLoads; ++i) {
      const int offset = WordRowOffset<kFormat>(WordRow<kFormat>(q, i));
      w.words[i] = *reinterpret_cast<const uint4*>(panel + offset + 16 * (g ^ 2 * q));
    }
    FIDDLER_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      const int token = warp_token + 8 * n;
      if (first_token + token >= piece.tokens) break;  // the same for all lanes; nobody stores those sums
      const auto words = *reinterpret_cast<const uint4*>(stage + Stage::kX + (token + g) * 64 + q * 16);
      uint2 token_scales[2][2];
      const auto* const scales =
          reinterpret_cast<const uint2*>(stage + Stage::kXScales) + (token + 2 * q) * K::kScales;
      FIDDLER_UNROLL
      for (int i = 0; i < 2 * K::kScales; ++i) {
        token_scales[i / 2][i % 2] = scales[i % 2 * K::kScales + i / 2];
      }
      MultiplyBlock<kFormat>(w, words, token_scales, sums[n]);
    }
  }

  // 3. Write.
  const int panel = first_panel + warp_panel;
  FIDDLER_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    FIDDLER_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + warp_token + 8 * n + 2 * q + i;
      const float4 own = RowsOf(sums[n], i);
      if constexpr (kGateUp) {
        // Lanes of rows 16 on have the up rows of the neurons that lanes of rows below have the gate rows of.
        const float4 up =
            make_float4(__shfl_xor_sync(kWholeWarp, own.x, 16), __shfl_xor_sync(kWholeWarp, own.y, 16),
                        __shfl_xor_sync(kWholeWarp, own.z, 16), __shfl_xor_sync(kWholeWarp, own.w, 16));
        if (lane >= 16 || token >= piece.tokens || panel >= panels) continue;
        const float4 h = make_float4(SiluTimes(own.x, up.x), SiluTimes(own.y, up.y), SiluTimes(own.z, up.z),
                                     SiluTimes(own.w, up.w));
        const int64_t at = (piece.first_pair + token) * args.out_stride + panel * (kRows / 2) + 4 * g;
        if (args.out_is_bf16) {
          *reinterpret_cast<uint2*>(static_cast<uint16_t*>(args.out) + at) =
              make_uint2(PackBf16(h.x, h.y), PackBf16(h.z, h.w));
        } else {
          *reinterpret_cast<float4*>(static_cast<float*>(args.out) + at) = h;
        }
      } else {
        if (token >= piece.tokens || panel >= panels) continue;
        const int row = panel * kRows + 4 * g;
        float* const to = static_cast<float*>(args.out) + (piece.first_pair + token) * args.out_stride + row;
        const float values[4] = {own.x, own.y, own.z, own.w};
        float biased[4];
        FIDDLER_UNROLL
        for (int r = 0; r < 4; ++r) {
          biased[r] =
              args.bias != nullptr && row + r < args.matrix_rows ? values[r] + args.bias[row + r] : values[r];
        }
        if (args.vectors) {  // rows come by four
          if (row < args.matrix_rows) {
            *reinterpret_cast<float4*>(to) = make_float4(biased[0], biased[1], biased[2], biased[3]);
          }
        } else {
          FIDDLER_UNROLL
          for (int r = 0; r < 4; ++r) {
            if (row + r < args.matrix_rows) to[r] = biased[r];
          }
        }
      }
    }
  }
}

}  // namespace fiddler::cuda
