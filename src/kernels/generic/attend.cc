#include "kernels/generic/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace fiddler::generic {
namespace {

void Store(const KvLayout& layout, std::byte* cells, int64_t index, float value) {
  if (layout.dtype == DType::kBF16) {
    reinterpret_cast<BF16*>(cells)[index] = ToBF16(value);
  } else {
    reinterpret_cast<float*>(cells)[index] = value;
  }
}

double Load(const KvLayout& layout, const std::byte* cells, int64_t index) {
  if (layout.dtype == DType::kBF16) return ToFloat(reinterpret_cast<const BF16*>(cells)[index]);
  return reinterpret_cast<const float*>(cells)[index];
}

// To the type of the cache.
double Round(const KvLayout& layout, double value) {
  const auto narrow = static_cast<float>(value);
  return layout.dtype == DType::kBF16 ? ToFloat(ToBF16(narrow)) : narrow;
}

// scale * q . k * log2(e), q rounded.
double Score(const AttendArgs& args, const float* q, int64_t position) {
  const KvLayout& layout = args.kv.layout;
  const int64_t token = position % KvLayout::kBlockTokens;
  const std::byte* keys = args.kv.Keys(position / KvLayout::kBlockTokens, args.kv_head);
  double dot = 0;
  for (int64_t d = 0; d < layout.head_dim; ++d) {
    dot += Round(layout, q[d]) * Load(layout, keys, layout.KeyIndex(token, d));
  }
  return dot * args.scale * std::numbers::log2e;
}

// A query over positions [begin, end): the scores, then their weights and the weighted sum of values.
void AttendOne(const AttendArgs& args, const float* q, int64_t begin, int64_t end, float* partial) {
  const KvLayout& layout = args.kv.layout;
  std::vector<double> scores;
  for (int64_t p = begin; p < end; ++p) scores.push_back(Score(args, q, p));
  double base = std::numeric_limits<double>::lowest();
  for (double score : scores) base = std::max(base, std::rint(score));

  double total = 0;
  std::vector<double> sums(static_cast<size_t>(layout.head_dim));
  for (int64_t p = begin; p < end; ++p) {
    const double weight = Round(layout, std::exp2(scores[static_cast<size_t>(p - begin)] - base));
    const int64_t token = p % KvLayout::kBlockTokens;
    const std::byte* values = args.kv.Values(p / KvLayout::kBlockTokens, args.kv_head);
    total += weight;
    for (int64_t d = 0; d < layout.head_dim; ++d) {
      sums[static_cast<size_t>(d)] += weight * Load(layout, values, layout.ValueIndex(token, d));
    }
  }
  partial[0] = static_cast<float>(std::max<double>(base, std::numeric_limits<float>::lowest()));
  partial[1] = static_cast<float>(total);
  std::copy(sums.begin(), sums.end(), partial + kAttendPartialSums);
}

void MergeOne(int64_t segments, int64_t stride, const float* partials, int64_t head_dim, float* out) {
  double base = partials[0];
  for (int64_t s = 1; s < segments; ++s) base = std::max<double>(base, partials[s * stride]);
  double total = 0;
  std::vector<double> sums(static_cast<size_t>(head_dim));
  for (int64_t s = 0; s < segments; ++s) {
    const float* partial = partials + s * stride;
    const double factor = std::exp2(partial[0] - base);
    total += factor * partial[1];
    for (int64_t d = 0; d < head_dim; ++d) {
      sums[static_cast<size_t>(d)] += factor * partial[kAttendPartialSums + d];
    }
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] = static_cast<float>(sums[static_cast<size_t>(d)] / total);
}

}  // namespace

void KvWrite(const KvWriteArgs& args) {
  const KvLayout& layout = args.kv.layout;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t block = (args.first_position + t) / KvLayout::kBlockTokens;
    const int64_t token = (args.first_position + t) % KvLayout::kBlockTokens;
    for (int64_t h = 0; h < args.kv.kv_heads; ++h) {
      std::byte* keys = args.kv.Keys(block, h);
      std::byte* values = args.kv.Values(block, h);
      const int64_t row = (t * args.kv.kv_heads + h) * layout.head_dim;
      for (int64_t d = 0; d < layout.head_dim; ++d) {
        Store(layout, keys, layout.KeyIndex(token, d), args.k[row + d]);
        Store(layout, values, layout.ValueIndex(token, d), args.v[row + d]);
      }
      for (int64_t d = layout.head_dim; d < layout.key_rows() * layout.pack(); ++d) {
        Store(layout, keys, layout.KeyIndex(token, d), 0);
      }
    }
  }
}

void AttendSegment(const AttendArgs& args, int64_t segment, float* partials) {
  const int64_t head_dim = args.kv.layout.head_dim;
  const int64_t begin = segment * kAttendSegment;
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t position = args.first_position + t;
    const int64_t oldest = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
    for (int64_t g = 0; g < args.group; ++g) {
      AttendOne(args, args.q + t * args.q_stride + (args.kv_head * args.group + g) * head_dim,
                std::max(begin, oldest), std::min(begin + kAttendSegment, position + 1),
                partials + (t * args.group + g) * AttendPartialFloats(head_dim));
    }
  }
}

void AttendMerge(const AttendArgs& args, const float* partials) {
  const int64_t head_dim = args.kv.layout.head_dim;
  const SegmentRange segments = SegmentsOf(args.first_position, args.tokens, args.window);
  const int64_t stride = args.tokens * args.group * AttendPartialFloats(head_dim);
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t g = 0; g < args.group; ++g) {
      MergeOne(segments.end - segments.begin, stride,
               partials + (t * args.group + g) * AttendPartialFloats(head_dim), head_dim,
               args.out + t * args.out_stride + (args.kv_head * args.group + g) * head_dim);
    }
  }
}

void Attend(const AttendArgs& args) {
  const SegmentRange segments = SegmentsOf(args.first_position, args.tokens, args.window);
  const int64_t stride = args.tokens * args.group * AttendPartialFloats(args.kv.layout.head_dim);
  std::vector<float> partials(static_cast<size_t>((segments.end - segments.begin) * stride));
  for (int64_t s = segments.begin; s < segments.end; ++s) {
    AttendSegment(args, s, partials.data() + (s - segments.begin) * stride);
  }
  AttendMerge(args, partials.data());
}

}  // namespace fiddler::generic
