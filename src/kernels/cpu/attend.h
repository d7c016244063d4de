// attend for any Simd and kind of cells: softmax on line (arXiv 1805.02867), block by block of positions, for
// up to kAttendQueries queries at a time, so that each key and value is read once for all of them.
//
// Exponents. A weight is 2^(score - base) for a whole number base near the largest score so far: whatever
// rescales sums is a power of two, so that it rounds nothing, and a weight rounded to BF16 is the same one
// whatever base was at the time. The base moves only when a score is far above it, so sums are rarely
// rescaled.
//
// Guarantee. The result of a query depends on the query and the keys and values it may look at alone: not on
// the other tokens of the call, nor on how segments are spread over calls, to the last bit (given finite keys
// and values). Its softmax goes block by block, the order within one is fixed, and what it may not look at
// has weight zero and moves no base.
#pragma once

#include "kernels/cpu/attend_chunk.h"
#include "kernels/cpu/attend_merge.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/kv_cells.h"
#include "kernels/cpu/runs.h"
#include "kernels/ops.h"

namespace fiddler {

// The runs of some queries, in the scratch of a thread. Query i is head i % group of token i / group.
template <class S, class Cells>
class AttendTile {
 public:
  using Run = AttendRun<S, Cells>;

  AttendTile(const AttendArgs& args, int64_t first_query, int64_t queries)
      : args_(args),
        num_runs_((queries + kRows - 1) / kRows),
        run_bytes_(AttendRunBytes<S, Cells>(args.kv.layout)) {
    for (int64_t i = 0; i < num_runs_; ++i) {
      const int64_t begin = queries * i / num_runs_;
      const int64_t end = queries * (i + 1) / num_runs_;
      Begin(run(i), first_query + begin, static_cast<int>(end - begin));
    }
  }

  int64_t num_runs() const { return num_runs_; }
  Run& run(int64_t i) const { return *reinterpret_cast<Run*>(args_.scratch + i * run_bytes_); }

  // All that the queries look at in one segment; what they saw before is forgotten. Fetches ahead up to
  // position fetch_end.
  void Attend(int64_t segment, int64_t fetch_end) {
    for (int64_t i = 0; i < num_runs_; ++i) Reset(run(i));
    const int max_blocks = num_runs_ == 1 ? 1 : kAttendBlocks;
    const int64_t step = max_blocks * KvLayout::kBlockTokens;
    const int64_t oldest = args_.window > 0 ? run(0).position[0] - args_.window + 1 : 0;
    const int64_t begin = segment * kAttendSegment;
    const int64_t end = this->end() < begin + kAttendSegment ? this->end() : begin + kAttendSegment;
    int64_t first = oldest > begin ? oldest / step * step : begin;
    AttendChunk<Cells> chunk;
    AttendChunk<Cells> next;
    if (first < end) FindChunk(args_, first, end, max_blocks, next);
    for (; first < end; first += step) {
      chunk = next;
      if (first + step < fetch_end) FindChunk(args_, first + step, fetch_end, max_blocks, next);
      for (int64_t i = 0; i < num_runs_; ++i) {
        CallWithSize<kRows>(run(i).rows, 0, [&](int64_t, auto size) {
          AttendToChunk<S, Cells, decltype(size)::kValue>(args_, chunk, next, run(i));
        });
      }
    }
  }

  // One past the last position that a query looks at.
  int64_t end() const {
    const Run& last = run(num_runs_ - 1);
    return last.position[last.rows - 1] + 1;
  }

 private:
  static constexpr int kRows = kAttendRows<S>;

  void Begin(Run& run, int64_t first_query, int rows) {
    const KvLayout& layout = args_.kv.layout;
    run.rows = rows;
    run.q = reinterpret_cast<typename Cells::Factor*>(&run + 1);
    run.sums = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(&run) + run_bytes_) -
               layout.value_runs() * kRows * KvLayout::kValueDims;
    for (int r = 0; r < rows; ++r) {
      const int64_t token = (first_query + r) / args_.group;
      const int64_t offset =
          (args_.kv_head * args_.group + (first_query + r) % args_.group) * layout.head_dim;
      run.position[r] = args_.first_position + token;
      run.out[r] = args_.out + token * args_.out_stride + offset;
      PackQuery(args_.q + token * args_.q_stride + offset, r, run.q);
    }
  }

  void PackQuery(const float* q, int r, typename Cells::Factor* packed) {
    constexpr int kPack = Cells::kPack;
    alignas(64) typename Cells::Factor factors[S::kWidth];
    ForEachRegister<S>(args_.kv.layout.head_dim, [&](auto at) {
      Cells::StoreFactors(factors, at.Load(q));  // zeros past the end
      const int64_t left = args_.kv.layout.head_dim - at.begin;
      for (int i = 0; i < S::kWidth && i < left; i += kPack) {
        __builtin_memcpy(packed + ((at.begin + i) / kPack * kRows + r) * kPack, factors + i,
                         kPack * sizeof(*factors));
      }
    });
  }

  void Reset(Run& run) {
    const int64_t numbers = args_.kv.layout.value_runs() * kRows * KvLayout::kValueDims;
    for (int64_t i = 0; i < numbers; i += S::kWidth) S::Store(run.sums + i, S::Zero());
    for (int r = 0; r < run.rows; ++r) {
      S::Store(run.totals[r], S::Zero());
      run.base[r] = kNoScore;
    }
  }

  const AttendArgs& args_;
  const int64_t num_runs_;
  const int64_t run_bytes_;
};

// Calls body(first, count) for the queries of the call, as many at a time as scratch holds.
template <class Body>
[[gnu::always_inline]] inline void ForEachTile(const AttendArgs& args, const Body& body) {
  const int64_t queries = args.tokens * args.group;
  for (int64_t first = 0; first < queries; first += kAttendQueries) {
    const int64_t left = queries - first;
    body(first, left < kAttendQueries ? left : kAttendQueries);
  }
}

template <class S, class Cells>
void AttendCells(const AttendArgs& args) {
  using Tile = AttendTile<S, Cells>;
  constexpr int64_t kStride = kAttendRows<S> * KvLayout::kValueDims;
  const int64_t head_dim = args.kv.layout.head_dim;
  ForEachTile(args, [&](int64_t first, int64_t count) {
    Tile tile(args, first, count);
    const auto for_each_row = [&](const auto& body) {
      for (int64_t i = 0; i < tile.num_runs(); ++i) {
        typename Tile::Run& run = tile.run(i);
        for (int r = 0; r < run.rows; ++r) body(run, r);
      }
    };
    for_each_row([&](auto& run, int r) { BeginMerge<S>(head_dim, run.out[r], run.before[r]); });
    const int64_t first_token = first / args.group;
    const int64_t last_token = (first + count - 1) / args.group;
    const SegmentRange segments =
        SegmentsOf(args.first_position + first_token, last_token - first_token + 1, args.window);
    for (int64_t segment = segments.begin; segment < segments.end; ++segment) {
      tile.Attend(segment, tile.end());
      for_each_row([&](auto& run, int r) {
        const SoftmaxState state = {run.base[r], S::Sum(S::Load(run.totals[r]))};
        Merge<S>(head_dim, state, run.sums + r * KvLayout::kValueDims, kStride, run.out[r], run.before[r]);
      });
    }
    for_each_row([&](auto& run, int r) { EndMerge<S>(head_dim, run.before[r], run.out[r]); });
  });
}

template <class S, class Cells>
void AttendSegmentOfCells(const AttendArgs& args, int64_t segment, float* partials) {
  using Tile = AttendTile<S, Cells>;
  constexpr int64_t kDims = KvLayout::kValueDims;
  const int64_t head_dim = args.kv.layout.head_dim;
  ForEachTile(args, [&](int64_t first, int64_t count) {
    Tile tile(args, first, count);
    tile.Attend(segment,
                (segment + 1) * kAttendSegment < tile.end() ? (segment + 1) * kAttendSegment : tile.end());
    float* partial = partials + first * AttendPartialFloats(head_dim);
    for (int64_t i = 0; i < tile.num_runs(); ++i) {
      const typename Tile::Run& run = tile.run(i);
      for (int r = 0; r < run.rows; ++r) {
        partial[0] = run.base[r];
        partial[1] = S::Sum(S::Load(run.totals[r]));
        for (int64_t d = 0; d < args.kv.layout.value_runs(); ++d) {
          for (int64_t j = 0; j < kDims; j += S::kWidth) {
            S::Store(partial + kAttendPartialSums + d * kDims + j,
                     S::Load(run.sums + (d * kAttendRows<S> + r) * kDims + j));
          }
        }
        partial += AttendPartialFloats(head_dim);
      }
    }
  });
}

// The kernels: Pairs is the kind of cells for BF16.
template <class S, class Pairs>
void Attend(const AttendArgs& args) {
  if (args.kv.layout.dtype == DType::kBF16) return AttendCells<S, Pairs>(args);
  AttendCells<S, FloatCells<S>>(args);
}

template <class S, class Pairs>
void AttendSegment(const AttendArgs& args, int64_t segment, float* partials) {
  if (args.kv.layout.dtype == DType::kBF16) return AttendSegmentOfCells<S, Pairs>(args, segment, partials);
  AttendSegmentOfCells<S, FloatCells<S>>(args, segment, partials);
}

}  // namespace fiddler
