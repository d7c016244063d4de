// From router logits to the experts of each token (kernels/route.h).
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace fiddler::cuda {

inline constexpr int kRouteWarps = 4;  // of a block
inline constexpr int64_t kMostRoutedExperts = 4096;

struct RouteParams {
  int64_t tokens;
  int num_experts;
  int top_k;
  bool renormalize;
  const float* logits;  // [tokens, num_experts]
  int32_t* experts;     // [tokens, top_k]
  float* weights;       // [tokens, top_k]
};

constexpr size_t RouteSharedBytes(int64_t num_experts) {
  return static_cast<size_t>(kRouteWarps * num_experts) * sizeof(float);
}

// Of two experts the one that is chosen first has the larger: its probability above, its number, inverted,
// below. A NaN counts as larger than all numbers. Never 0.
__device__ __forceinline__ uint64_t RouteRank(float probability, int expert) {
  return uint64_t{BitsOfFloat(probability) & 0x7fffffffu} << 32 | ~static_cast<uint32_t>(expert);
}

// The highest rank of a lane's experts, but for those chosen already; 0 if none is left.
inline constexpr float kRouteChosen = -1;
__device__ __forceinline__ uint64_t BestOfLane(const float* probabilities, int num_experts, int lane) {
  uint64_t best = 0;
  for (int expert = lane; expert < num_experts; expert += kWarp) {
    if (probabilities[expert] == kRouteChosen) continue;
    const uint64_t rank = RouteRank(probabilities[expert], expert);
    best = rank > best ? rank : best;
  }
  return best;
}

// A warp a token; lane l has experts l, l + 32, .. and keeps them in shared memory, where no other lane
// looks. Each choice is the best of what every lane holds to be its best, and only who lost its best looks
// again. A few hundred bytes in, a few dozen out: what counts is the time of one token, top_k times five
// shuffles.
__global__ void __launch_bounds__(kRouteWarps* kWarp) RouteKernel(RouteParams params) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t token = int64_t{blockIdx.x} * kRouteWarps + warp;
  if (token >= params.tokens) return;
  const int num_experts = params.num_experts;
  const float* const logits = params.logits + token * num_experts;
  int32_t* const experts = params.experts + token * params.top_k;
  float* const weights = params.weights + token * params.top_k;
  float* const probabilities = reinterpret_cast<float*>(SharedMemory()) + warp * num_experts;

  float largest = -INFINITY;
  for (int e = lane; e < num_experts; e += kWarp) {
    probabilities[e] = logits[e];
    largest = fmaxf(largest, probabilities[e]);
  }
  largest = WarpMax(largest);
  float total = 0;
  for (int e = lane; e < num_experts; e += kWarp) {
    probabilities[e] = expf(probabilities[e] - largest);  // but for the common factor
    total += probabilities[e];
  }
  total = WarpSum(total);

  uint64_t mine = BestOfLane(probabilities, num_experts, lane);
  float chosen = 0;
  for (int k = 0; k < params.top_k; ++k) {
    uint64_t best = mine;
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const uint64_t other = __shfl_xor_sync(kWholeWarp, best, lanes);
      best = other > best ? other : best;
    }
    const auto expert = static_cast<int>(~static_cast<uint32_t>(best));
    const float weight = FloatOfBits(static_cast<uint32_t>(best >> 32)) / total;
    chosen += weight;
    if (lane == k % kWarp) {
      experts[k] = expert;
      weights[k] = weight;
    }
    if (lane == expert % kWarp) {
      probabilities[expert] = kRouteChosen;
      mine = BestOfLane(probabilities, num_experts, lane);
    }
  }
  if (!params.renormalize) return;
  for (int k = lane; k < params.top_k; k += kWarp) weights[k] /= chosen;  // by the lane that wrote it
}

}  // namespace fiddler::cuda
