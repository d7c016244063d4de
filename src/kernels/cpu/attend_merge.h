// Attention is computed in segments of positions (kernels/ops.h); here their softmaxes become one, in the
// order of the segments.
#pragma once

#include "kernels/cpu/elementwise.h"
#include "kernels/ops.h"

namespace fiddler {

// The largest score of a query that looks at nothing, and the score of a position it may not look at.
inline constexpr float kNoScore = -3.40282347e38f;

// Of one query: the largest score, rounded to a whole number, and the total of the weights relative to it.
struct SoftmaxState {
  float largest;
  float total;
};

// 2^exponent for a whole exponent <= 0.
template <class S>
[[gnu::always_inline]] inline float PowerOfTwo(float exponent) {
  return S::First(S::TimesPowerOfTwo(S::Set(1.0f), S::Set(exponent)));
}

template <class S>
[[gnu::always_inline]] inline void BeginMerge(int64_t head_dim, float* out, SoftmaxState& state) {
  ForEachRegister<S>(head_dim, [&](auto at) { at.Store(out, S::Zero()); });
  state.largest = kNoScore;
  state.total = 0;
}

// Adds the sums of a segment, of which run d of KvLayout::kValueDims dimensions is at sums + d * stride.
template <class S>
[[gnu::always_inline]] inline void Merge(int64_t head_dim, const SoftmaxState& segment, const float* sums,
                                         int64_t stride, float* out, SoftmaxState& state) {
  constexpr int64_t kDims = KvLayout::kValueDims;
  const float largest = state.largest > segment.largest ? state.largest : segment.largest;
  const float before = PowerOfTwo<S>(state.largest - largest);
  const float factor = PowerOfTwo<S>(segment.largest - largest);
  state.total = state.total * before + segment.total * factor;
  state.largest = largest;
  ForEachRegister<S>(head_dim, [&](auto at) {
    const float* const sum = sums + at.begin / kDims * stride + at.begin % kDims;
    const typename S::Reg kept = S::Mul(at.Load(out), S::Set(before));
    at.Store(out, S::Fma(S::Load(sum), S::Set(factor), kept));
  });
}

template <class S>
[[gnu::always_inline]] inline void EndMerge(int64_t head_dim, const SoftmaxState& state, float* out) {
  const typename S::Reg scale = S::Set(1.0f / state.total);
  // Adding zero makes one zero of the two: a negative one may come from values of weight zero.
  ForEachRegister<S>(head_dim, [&](auto at) { at.Store(out, S::Fma(at.Load(out), scale, S::Zero())); });
}

template <class S>
void AttendMerge(const AttendArgs& args, const float* partials) {
  const int64_t head_dim = args.kv.layout.head_dim;
  const SegmentRange segments = SegmentsOf(args.first_position, args.tokens, args.window);
  const int64_t queries = args.tokens * args.group;
  for (int64_t i = 0; i < queries; ++i) {
    float* const out =
        args.out + i / args.group * args.out_stride + (args.kv_head * args.group + i % args.group) * head_dim;
    const float* partial = partials + i * AttendPartialFloats(head_dim);
    SoftmaxState state;
    BeginMerge<S>(head_dim, out, state);
    for (int64_t segment = segments.begin; segment < segments.end; ++segment) {
      Merge<S>(head_dim, {partial[0], partial[1]}, partial + kAttendPartialSums, KvLayout::kValueDims, out,
               state);
      partial += queries * AttendPartialFloats(head_dim);
    }
    EndMerge<S>(head_dim, state, out);
  }
}

}  // namespace fiddler
